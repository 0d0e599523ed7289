// Hosts and the ends of links as the kernel has them: network namespaces without names, and TUN devices in them.
//
// Nothing is left behind, however this process ends: a namespace lives as long as a process is in it or holds it open,
// a TUN device as long as its file is open.
#pragma once

#include <string>

namespace starling::testbed {

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// The network namespace of the calling thread. Throws std::system_error.
Descriptor open_own_namespace();

// Makes a namespace, with loopback up and packets forwarded; the calling thread is in it afterwards.
// Throws std::system_error.
Descriptor make_namespace();

// The calling thread moves into a namespace. Throws std::system_error.
void enter(const Descriptor& network);

// Opens a TUN device called `name` in the namespace of the calling thread, up and with an IPv4 address.
// It carries packets without any header of its own. Throws std::system_error.
Descriptor open_tun(const std::string& name, const std::string& address);

// Packets to an address leave by a device, in the namespace of the calling thread. Throws std::system_error.
void add_route(const std::string& address, const std::string& device);

}  // namespace starling::testbed
