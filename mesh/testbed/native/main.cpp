// Several hosts on one machine: network namespaces joined by links whose delay, jitter, loss and rate can change.
// usage: starling-testbed --check
//        starling-testbed NAME SEED STATEMENT...      (statements: plan.h)
//
// --check says whether this machine and user can have such a testbed: exit status 0, or 1 and why not on stdout.
// Otherwise prints `ready name=NAME` and carries packets until SIGTERM; other processes ask and change it, see
// control.h. Namespaces and devices have no names and end with this process, so a killed wire leaves nothing behind.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "control.h"
#include "host.h"
#include "plan.h"
#include "wire.h"

namespace {

using namespace starling::testbed;

volatile std::sig_atomic_t stopping = 0;

void run(Wire& wire, Control& control) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGINT);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  struct sigaction action{};
  action.sa_handler = [](int) { stopping = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::vector<pollfd> polls;
  while (stopping == 0) {
    polls.clear();
    wire.watch(polls);
    const std::size_t tuns = polls.size();
    control.watch(polls);
    const Nanoseconds wait = wire.wait();
    const timespec timeout{static_cast<time_t>(wait / 1'000'000'000), static_cast<long>(wait % 1'000'000'000)};
    // Signals are let in only here, so that none is missed between a look at `stopping` and the wait.
    if (ppoll(polls.data(), polls.size(), wait < 0 ? nullptr : &timeout, &before) < 0 && errno != EINTR)
      throw std::system_error(errno, std::generic_category(), "waiting for packets");
    if (stopping != 0) return;
    wire.carry(polls.data());
    control.serve(polls.data() + tuns, wire);
  }
}

int check() {
  const Descriptor network = make_namespace();
  const Descriptor tun = open_tun("check", "10.77.0.1");
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  const bool checking = argc == 2 && std::strcmp(argv[1], "--check") == 0;
  try {
    if (checking) return check();
    if (argc < 3) {
      std::fputs("usage: starling-testbed --check | starling-testbed NAME SEED STATEMENT...\n", stderr);
      return 2;
    }
    Plan plan = parse_plan(argv[1], std::strtoull(argv[2], nullptr, 10), {argv + 3, argv + argc});
    const std::string name = plan.name;
    Control control(name);  // first: it refuses a second wire of the same name
    Wire wire(std::move(plan));
    // A packet is due to the microsecond: no slack of the kernel's timers, and before ordinary work where allowed.
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    setpriority(PRIO_PROCESS, 0, -10);
    std::printf("ready name=%s\n", name.c_str());
    std::fflush(stdout);
    run(wire, control);
    return EXIT_SUCCESS;
  } catch (const BadPlan& bad) {
    std::fprintf(stderr, "starling-testbed: %s\n", bad.what());
    return 2;
  } catch (const std::system_error& error) {
    std::fprintf(checking ? stdout : stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
