#include "plan.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <sstream>

namespace starling::testbed {
namespace {

constexpr std::size_t kNameMax = 15;  // IFNAMSIZ without its end
constexpr double kDelayMsMax = 60'000;
constexpr double kRateMbitMax = 1e6;

void check_name(const std::string& name) {
  const auto is_fine = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  if (name.empty() || !std::all_of(name.begin(), name.end(), is_fine))
    throw BadPlan("found the name \"" + name + "\"; expected a-z, 0-9 and -");
}

double number(const std::string& key, const std::string& text, double max) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || rest != end || !(value >= 0 && value <= max)) {
    char expected[64];
    std::snprintf(expected, sizeof expected, "a number from 0 to %g", max);
    throw BadPlan(key + " is \"" + text + "\"; expected " + expected);
  }
  return value;
}

Nanoseconds milliseconds(const std::string& key, const std::string& text) {
  return static_cast<Nanoseconds>(number(key, text, kDelayMsMax) * 1e6);
}

}  // namespace

std::size_t Plan::host(const std::string& name_of_it) const {
  const auto found = std::find_if(hosts.begin(), hosts.end(), [&](const HostPlan& h) { return h.name == name_of_it; });
  if (found == hosts.end()) throw BadPlan("there is no host \"" + name_of_it + "\"");
  return static_cast<std::size_t>(found - hosts.begin());
}

Plan parse_plan(const std::string& name, std::uint64_t seed, const std::vector<std::string>& statements) {
  check_name(name);
  Plan plan{name, seed, {}, {}, {}};
  for (const std::string& statement : statements) {
    std::istringstream words(statement);
    std::string kind;
    words >> kind;
    if (kind == "host") {
      HostPlan host;
      words >> host.name >> host.address;
      check_name(host.name);
      if (host.name.size() > kNameMax || host.name == "lo")
        throw BadPlan("host \"" + host.name + "\" cannot name an interface; expected at most 15 characters");
      plan.hosts.push_back(host);
    } else if (kind == "link") {
      LinkPlan link;
      words >> link.name >> link.ends[0] >> link.ends[1];
      check_name(link.name);
      for (const std::string& end : link.ends) plan.host(end);
      for (std::string assignment; words >> assignment;) apply(link.shape, assignment);
      plan.links.push_back(link);
    } else if (kind == "route") {
      RoutePlan route;
      words >> route.host >> route.to >> route.via;
      for (const std::string& end : {route.host, route.to, route.via}) plan.host(end);
      plan.routes.push_back(route);
    } else {
      throw BadPlan("found \"" + statement + "\"; expected host, link or route");
    }
  }
  return plan;
}

void apply(Shape& shape, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  const std::string key = assignment.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : assignment.substr(equals + 1);
  if (key == "delay_ms") {
    shape.delay = milliseconds(key, value);
  } else if (key == "jitter_ms") {
    shape.jitter = milliseconds(key, value);
  } else if (key == "buffer_ms") {
    shape.buffer = milliseconds(key, value);
  } else if (key == "loss") {
    shape.loss = number(key, value, 1);
  } else if (key == "reorder") {
    shape.reorder = number(key, value, 1);
  } else if (key == "rate_mbit") {
    shape.rate = number(key, value, kRateMbitMax) * 1e6;
  } else {
    throw BadPlan("found \"" + assignment +
                  "\"; expected delay_ms=, jitter_ms=, loss=, rate_mbit=, reorder= or buffer_ms=");
  }
}

std::string describe(const Shape& shape) {
  char text[256];
  std::snprintf(text, sizeof text,
                R"("delay_ms": %.10g, "jitter_ms": %.10g, "loss": %.10g, "rate_mbit": %.10g, "reorder": %.10g, )"
                R"("buffer_ms": %.10g)",
                static_cast<double>(shape.delay) / 1e6, static_cast<double>(shape.jitter) / 1e6, shape.loss,
                shape.rate / 1e6, shape.reorder, static_cast<double>(shape.buffer) / 1e6);
  return text;
}

}  // namespace starling::testbed
