// Carries packets between the TUN devices of the hosts, each direction of a link through its own lane.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "host.h"
#include "lane.h"
#include "lateness.h"
#include "plan.h"

struct pollfd;

namespace starling::testbed {

class Wire {
 public:
  // Makes the hosts and links of a plan; the calling thread stays in its own namespace.
  // Throws std::system_error when the kernel refuses, BadPlan when the plan contradicts itself.
  explicit Wire(Plan plan);

  // Applies "set LINK [towards HOST] KEY=VALUE...", wholly or not at all. Throws BadPlan.
  void set(const std::string& statement);

  // Everything as one JSON object.
  std::string describe() const;

  // Appends what to poll for reading; `carry` takes the same entries back.
  void watch(std::vector<pollfd>& polls) const;

  // Takes packets from the devices that are readable and hands over those that are due.
  void carry(const pollfd* polls);

  // Nanoseconds until a packet is due, at least 0; -1 when none is under way.
  Nanoseconds wait() const;

 private:
  struct Packet {
    std::vector<char> bytes;  // with the device's header
  };
  struct UnderWay {
    Nanoseconds due;
    std::uint64_t order;  // of two that are due at once, the older one goes first
    std::uint32_t packet;
    bool operator>(const UnderWay& other) const { return due != other.due ? due > other.due : order > other.order; }
  };
  struct Direction {
    Direction(const Shape& shape, std::uint64_t seed) : lane(shape, seed) {}
    Lane lane;
    int from_tun = -1;
    int to_tun = -1;
    std::int64_t refused = 0;  // by the kernel of the far host
    std::priority_queue<UnderWay, std::vector<UnderWay>, std::greater<>> under_way;
  };
  struct Link {
    std::string name;
    std::string ends[2];
    Descriptor tuns[2];
    std::unique_ptr<Direction> directions[2];  // from the first end to the second, and back
  };

  void take(Direction& direction);
  void hand_over(Direction& direction);
  void shape(Link& link, int direction, const Shape& shape);
  std::uint32_t new_packet();
  void drop_packet(std::uint32_t packet);
  Link& link(const std::string& name);

  Plan plan_;
  std::vector<Descriptor> networks_;  // of the hosts, in the order of the plan
  std::vector<Link> links_;
  std::deque<Packet> packets_;
  std::vector<std::uint32_t> free_packets_;
  std::vector<char> read_;
  std::uint64_t order_ = 0;
  Lateness lateness_;
};

}  // namespace starling::testbed
