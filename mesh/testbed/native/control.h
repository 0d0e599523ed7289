// Where other processes of the same user ask about a wire and change it.
#pragma once

#include <string>
#include <vector>

#include "host.h"
#include "wire.h"

struct pollfd;

namespace starling::testbed {

// A socket without a file: its name is `starling-testbed/NAME` in the kernel's own table, so a second wire of that name
// is refused and nothing is left when this process ends. One packet asks, one answers:
//   show                                        -> the wire as a JSON object
//   set LINK [towards HOST] KEY=VALUE...        -> "ok", or "error" and why
class Control {
 public:
  // Throws std::system_error, with EADDRINUSE when a wire of that name runs.
  explicit Control(const std::string& name);

  void watch(std::vector<pollfd>& polls) const;
  // Takes the entries of `watch` back and answers what was asked.
  void serve(const pollfd* polls, Wire& wire);

 private:
  void accept_one();

  Descriptor listening_;
  std::vector<Descriptor> clients_;
};

}  // namespace starling::testbed
