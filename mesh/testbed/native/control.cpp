#include "control.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <system_error>

namespace starling::testbed {
namespace {

constexpr std::size_t kClientsMax = 32;
constexpr std::size_t kRequestBytesMax = 1024;
constexpr int kAnswerBytesMax = 1 << 20;

std::string answer(const std::string& request, Wire& wire) {
  try {
    if (request == "show") return wire.describe();
    if (request.rfind("set ", 0) == 0) {
      wire.set(request);
      return "ok";
    }
    return "error found \"" + request + "\"; expected show or set";
  } catch (const BadPlan& bad) {
    return std::string("error ") + bad.what();
  }
}

bool is_ours(int client) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return false;
  return peer.uid == geteuid() || peer.uid == 0;
}

}  // namespace

Control::Control(const std::string& name) {
  listening_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = "starling-testbed/" + name;
  if (path.size() + 1 > sizeof address.sun_path) throw BadPlan("the name \"" + name + "\" is too long");
  std::memcpy(address.sun_path + 1, path.data(), path.size());  // a name that begins with 0 is no file
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + path.size());
  if (listening_.get() < 0 || bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), size) < 0 ||
      listen(listening_.get(), static_cast<int>(kClientsMax)) < 0)
    throw std::system_error(errno, std::generic_category(), "the control socket of testbed \"" + name + "\"");
}

void Control::watch(std::vector<pollfd>& polls) const {
  // A full house is not polled for more; those who wait are taken when somebody leaves.
  polls.push_back({listening_.get(), static_cast<short>(clients_.size() < kClientsMax ? POLLIN : 0), 0});
  for (const Descriptor& client : clients_) polls.push_back({client.get(), POLLIN, 0});
}

void Control::serve(const pollfd* polls, Wire& wire) {
  const bool somebody_new = polls[0].revents != 0;
  std::vector<Descriptor> staying;
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    bool stays = true;
    if (polls[i + 1].revents != 0) {
      char request[kRequestBytesMax];
      const ssize_t size = recv(clients_[i].get(), request, sizeof request, MSG_DONTWAIT | MSG_TRUNC);
      stays = size > 0 && static_cast<std::size_t>(size) <= sizeof request;
      if (stays) {
        const std::string text = answer(std::string(request, static_cast<std::size_t>(size)), wire);
        stays = send(clients_[i].get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
      }
    }
    if (stays) staying.push_back(std::move(clients_[i]));
  }
  clients_ = std::move(staying);
  if (somebody_new) accept_one();
}

void Control::accept_one() {
  Descriptor client(accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (client.get() < 0 || !is_ours(client.get())) return;
  setsockopt(client.get(), SOL_SOCKET, SO_SNDBUF, &kAnswerBytesMax, sizeof kAnswerBytesMax);
  clients_.push_back(std::move(client));
}

}  // namespace starling::testbed
