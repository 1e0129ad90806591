// The two nearest of 256-bit codes by tables, where that is the faster way.
#pragma once

#include "cpu_kernel.h"
#include "hamming.h"

namespace bindesc {

bool tables_pay(const Kernel& kernel, Codes query, Codes train, int k);

// As nearest(), whose columns must hold "missing" before.
bool nearest_by_tables(const Kernel& kernel, Codes query, Codes train, int k, int threads,
                       Stop& stop, NearestOut out);

}  // namespace bindesc
