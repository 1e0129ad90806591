from benchmarks import render_tables


def test_the_tables_are_those_of_the_results():
    assert render_tables.main(["--check"]) == 0
