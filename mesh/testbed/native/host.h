// Hosts and the ends of links as the kernel has them: network namespaces without names, and TUN devices in them.
//
// Nothing is left behind, however this process ends: a namespace lives as long as a process is in it or holds it open,
// a TUN device as long as its file is open.
#pragma once

#include <cstddef>
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
// What is read from it and written to it is a packet behind kTunHeaderBytes that say which work on it is left to do.
// Throws std::system_error.
Descriptor open_tun(const std::string& name, const std::string& address);

// struct virtio_net_hdr: a checksum that was not computed, a train of TCP segments that was not cut. Whoever passes it
// on unchanged leaves that work to the far host, which does not do it either, as on a machine's own loopback.
constexpr std::size_t kTunHeaderBytes = 10;
constexpr std::size_t kTunPacketBytesMax = kTunHeaderBytes + (64 << 10);

// Lets a device hand over trains of TCP segments as one packet, or each segment alone. Throws std::system_error.
void allow_trains(const Descriptor& tun, bool allowed);

// Packets to an address leave by a device, in the namespace of the calling thread. Throws std::system_error.
void add_route(const std::string& address, const std::string& device);

}  // namespace starling::testbed
