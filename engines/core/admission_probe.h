// What deciding about a request costs on this machine, without a server around it.
#pragma once

#include <cstdint>
#include <vector>

namespace starling {

struct AdmissionCase {
  int queued = 0;     // requests that wait already, patient enough to stay
  int tenants = 1;    // who share them
  bool cold = false;  // caches are used for something else before each decision, as a convnet does
};

// Nanoseconds of each of `runs` decisions of one scheduler. Every second one is a refusal.
std::vector<std::int64_t> admission_ns(const AdmissionCase& what, int runs);

}  // namespace starling
