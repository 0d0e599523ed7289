#include "wire.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <sstream>
#include <utility>

namespace starling::testbed {
namespace {

constexpr std::size_t kKeptBytesMax = 2048;  // memory of a packet of the devices' MTU of 1500 is used again
constexpr int kTakenAtOnce = 64;             // then what is due gets its turn

Nanoseconds now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<Nanoseconds>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

// Directions of one testbed draw from unrelated sequences.
std::uint64_t mix(std::uint64_t seed, std::uint64_t number) {
  std::uint64_t z = seed + (number + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

}  // namespace

Wire::Wire(Plan plan) : plan_(std::move(plan)), read_(kTunPacketBytesMax) {
  const Descriptor home = open_own_namespace();
  for (std::size_t i = 0; i < plan_.hosts.size(); ++i) networks_.push_back(make_namespace());
  for (const LinkPlan& planned : plan_.links) {
    Link link{planned.name, {planned.ends[0], planned.ends[1]}, {}, {}};
    for (int end = 0; end < 2; ++end) {
      const std::size_t host = plan_.host(link.ends[end]);
      enter(networks_[host]);
      link.tuns[end] = open_tun(link.ends[1 - end], plan_.hosts[host].address);
      link.directions[end] =
          std::make_unique<Direction>(planned.shape, mix(plan_.seed, 2 * links_.size() + static_cast<unsigned>(end)));
    }
    for (int end = 0; end < 2; ++end) {
      link.directions[end]->from_tun = link.tuns[end].get();
      link.directions[end]->to_tun = link.tuns[1 - end].get();
      shape(link, end, planned.shape);
    }
    links_.push_back(std::move(link));
  }
  for (const RoutePlan& route : plan_.routes) {
    enter(networks_[plan_.host(route.host)]);
    add_route(plan_.hosts[plan_.host(route.to)].address, route.via);
  }
  enter(home);
}

void Wire::set(const std::string& statement) {
  std::istringstream words(statement);
  std::string word, name;
  words >> word >> name;
  Link& changed = link(name);
  bool both = true;
  int only = 0;
  std::vector<std::string> assignments;
  while (words >> word) {
    if (word != "towards") {
      assignments.push_back(word);
      continue;
    }
    std::string host;
    words >> host;
    if (host != changed.ends[0] && host != changed.ends[1])
      throw BadPlan("link \"" + name + "\" does not end at \"" + host + "\"; expected " + changed.ends[0] + " or " +
                    changed.ends[1]);
    both = false;
    only = host == changed.ends[1] ? 0 : 1;
  }
  Shape shapes[2] = {changed.directions[0]->lane.shape(), changed.directions[1]->lane.shape()};
  for (Shape& shape : shapes)
    for (const std::string& assignment : assignments) apply(shape, assignment);
  for (int i = 0; i < 2; ++i)
    if (both || only == i) shape(changed, i, shapes[i]);
}

std::string Wire::describe() const {
  std::ostringstream out;
  out << R"({"name": ")" << plan_.name << R"(", "pid": )" << getpid() << R"(, "hosts": [)";
  for (std::size_t i = 0; i < plan_.hosts.size(); ++i) {
    out << (i ? ", " : "") << R"({"name": ")" << plan_.hosts[i].name << R"(", "address": ")" << plan_.hosts[i].address
        << R"(", "namespace": "/proc/)" << getpid() << "/fd/" << networks_[i].get() << R"("})";
  }
  out << R"(], "links": [)";
  for (std::size_t i = 0; i < links_.size(); ++i) {
    out << (i ? ", " : "") << R"({"name": ")" << links_[i].name << R"(", "lanes": [)";
    for (int end = 0; end < 2; ++end) {
      const Direction& direction = *links_[i].directions[end];
      const Lane& lane = direction.lane;
      out << (end ? ", " : "") << R"({"from": ")" << links_[i].ends[end] << R"(", "to": ")" << links_[i].ends[1 - end]
          << R"(", )" << testbed::describe(lane.shape()) << R"(, "packets": )" << lane.packets() << R"(, "bytes": )"
          << lane.bytes() << R"(, "lost": )" << lane.lost() << R"(, "overflowed": )" << lane.overflowed()
          << R"(, "refused": )" << direction.refused << R"(, "under_way_bytes": )" << lane.under_way_bytes() << "}";
    }
    out << "]}";
  }
  char late[96];
  std::snprintf(late, sizeof late, R"(], "late_us_p50": %.4g, "late_us_p99": %.4g})", lateness_.quantile_us(0.5),
                lateness_.quantile_us(0.99));
  out << late;
  return out.str();
}

void Wire::watch(std::vector<pollfd>& polls) const {
  for (const Link& link : links_)
    for (const Descriptor& tun : link.tuns) polls.push_back({tun.get(), POLLIN, 0});
}

void Wire::carry(const pollfd* polls) {
  for (Link& link : links_) {
    for (auto& direction : link.directions) {
      if (polls->revents != 0) take(*direction);
      ++polls;
    }
  }
  for (Link& link : links_)
    for (auto& direction : link.directions) hand_over(*direction);
}

Nanoseconds Wire::wait() const {
  Nanoseconds next = -1;
  for (const Link& link : links_)
    for (const auto& direction : link.directions)
      if (!direction->under_way.empty() && (next < 0 || direction->under_way.top().due < next))
        next = direction->under_way.top().due;
  return next < 0 ? -1 : std::max<Nanoseconds>(0, next - now());
}

void Wire::take(Direction& direction) {
  for (int taken = 0; taken < kTakenAtOnce; ++taken) {
    const ssize_t size = read(direction.from_tun, read_.data(), read_.size());
    if (size <= static_cast<ssize_t>(kTunHeaderBytes)) return;
    const Passage passage = direction.lane.offer(now(), size - static_cast<ssize_t>(kTunHeaderBytes));
    if (passage.fate != Fate::kCarried) continue;
    const std::uint32_t packet = new_packet();
    packets_[packet].bytes.assign(read_.begin(), read_.begin() + size);
    direction.under_way.push({passage.due, ++order_, packet});
  }
}

void Wire::hand_over(Direction& direction) {
  auto& under_way = direction.under_way;
  for (Nanoseconds time = now(); !under_way.empty() && under_way.top().due <= time; time = now()) {
    const UnderWay next = under_way.top();
    under_way.pop();
    const std::vector<char>& bytes = packets_[next.packet].bytes;
    lateness_.observe(time - next.due);
    if (write(direction.to_tun, bytes.data(), bytes.size()) < 0) ++direction.refused;
    direction.lane.arrive(static_cast<std::int64_t>(bytes.size() - kTunHeaderBytes));
    drop_packet(next.packet);
  }
}

void Wire::shape(Link& link, int direction, const Shape& shape) {
  link.directions[direction]->lane.set_shape(shape);
  // What happens to packets one by one needs them one by one; else a train costs as much as one of its segments.
  allow_trains(link.tuns[direction], shape.rate == 0 && shape.reorder == 0 && (shape.loss == 0 || shape.loss == 1));
}

std::uint32_t Wire::new_packet() {
  if (free_packets_.empty()) {
    packets_.emplace_back();
    return static_cast<std::uint32_t>(packets_.size() - 1);
  }
  const std::uint32_t packet = free_packets_.back();
  free_packets_.pop_back();
  return packet;
}

void Wire::drop_packet(std::uint32_t packet) {
  std::vector<char>& bytes = packets_[packet].bytes;
  if (bytes.capacity() > kKeptBytesMax) std::vector<char>().swap(bytes);
  free_packets_.push_back(packet);
}

Wire::Link& Wire::link(const std::string& name) {
  const auto found = std::find_if(links_.begin(), links_.end(), [&](const Link& l) { return l.name == name; });
  if (found != links_.end()) return *found;
  std::string known;
  for (const Link& each : links_) known += (known.empty() ? "" : ", ") + each.name;
  throw BadPlan("there is no link \"" + name + "\"; expected one of " + known);
}

}  // namespace starling::testbed
