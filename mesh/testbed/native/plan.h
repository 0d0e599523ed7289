// What a wire joins, as its command line and its control socket say it, and the text of both.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "lane.h"

namespace starling::testbed {

struct HostPlan {
  std::string name;     // [a-z0-9-], at most 15 characters: interfaces are called after the host they lead to
  std::string address;  // IPv4
};

struct LinkPlan {
  std::string name;
  std::string ends[2];  // names of hosts
  Shape shape;          // of both directions
};

struct RoutePlan {
  std::string host;
  std::string to;   // host to reach
  std::string via;  // neighbour that leads to it
};

struct Plan {
  std::string name;
  std::uint64_t seed = 0;
  std::vector<HostPlan> hosts;
  std::vector<LinkPlan> links;
  std::vector<RoutePlan> routes;

  // Index of a host. Throws BadPlan when there is none.
  std::size_t host(const std::string& name) const;
};

struct BadPlan : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Reads one argument per statement:
//   host NAME ADDRESS | link NAME HOST HOST [KEY=VALUE]... | route HOST TO VIA
// Throws BadPlan.
Plan parse_plan(const std::string& name, std::uint64_t seed, const std::vector<std::string>& statements);

// Applies KEY=VALUE: delay_ms, jitter_ms, loss, rate_mbit, reorder, buffer_ms. Throws BadPlan.
void apply(Shape& shape, const std::string& assignment);

// {"delay_ms": …, …} without the braces.
std::string describe(const Shape& shape);

}  // namespace starling::testbed
