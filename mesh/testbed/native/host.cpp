#include "host.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace starling::testbed {
namespace {

// A burst of 15 MB waits in the device instead of being dropped before the link was asked.
constexpr int kDeviceQueuePackets = 10'000;

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

int check(int result, const std::string& what) {
  if (result < 0) fail(what);
  return result;
}

sockaddr_in internet_address(const std::string& text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, text.c_str(), &address.sin_addr) != 1) {
    errno = EINVAL;
    fail("address " + text);
  }
  return address;
}

ifreq request(const std::string& device) {
  ifreq request{};
  std::strncpy(request.ifr_name, device.c_str(), IFNAMSIZ - 1);
  return request;
}

Descriptor open_socket() { return Descriptor(check(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket")); }

void bring_up(int socket, const std::string& device) {
  ifreq flags = request(device);
  check(ioctl(socket, SIOCGIFFLAGS, &flags), "flags of " + device);
  flags.ifr_flags |= IFF_UP | IFF_RUNNING;
  check(ioctl(socket, SIOCSIFFLAGS, &flags), "bringing up " + device);
}

bool write_kernel_setting(const char* path, const char* value) {
  const Descriptor file(open(path, O_WRONLY | O_CLOEXEC));
  return file.get() >= 0 && write(file.get(), value, std::strlen(value)) > 0;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

Descriptor open_own_namespace() {
  return Descriptor(check(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "/proc/thread-self/ns/net"));
}

Descriptor make_namespace() {
  check(unshare(CLONE_NEWNET), "making a network namespace");
  bring_up(open_socket().get(), "lo");
  if (!write_kernel_setting("/proc/sys/net/ipv4/ip_forward", "1")) fail("/proc/sys/net/ipv4/ip_forward");
  // Links carry IPv4 only; without this, hosts look for IPv6 routers. A kernel without IPv6 has no such file.
  write_kernel_setting("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
  return open_own_namespace();
}

void enter(const Descriptor& network) { check(setns(network.get(), CLONE_NEWNET), "entering a network namespace"); }

Descriptor open_tun(const std::string& name, const std::string& address) {
  Descriptor tun(check(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), "/dev/net/tun"));
  ifreq device = request(name);
  device.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  check(ioctl(tun.get(), TUNSETIFF, &device), "making device " + name);
  const Descriptor socket = open_socket();
  ifreq queue = request(name);
  queue.ifr_qlen = kDeviceQueuePackets;
  check(ioctl(socket.get(), SIOCSIFTXQLEN, &queue), "queue of " + name);
  ifreq own = request(name);
  const sockaddr_in internet = internet_address(address);
  std::memcpy(&own.ifr_addr, &internet, sizeof internet);
  check(ioctl(socket.get(), SIOCSIFADDR, &own), "address of " + name);
  bring_up(socket.get(), name);
  return tun;
}

void allow_trains(const Descriptor& tun, bool allowed) {
  const unsigned long offloads = allowed ? TUN_F_CSUM | TUN_F_TSO4 : 0;
  check(ioctl(tun.get(), TUNSETOFFLOAD, offloads), "offloads of a device");
}

void add_route(const std::string& address, const std::string& device) {
  rtentry route{};
  const sockaddr_in internet = internet_address(address);
  std::memcpy(&route.rt_dst, &internet, sizeof internet);
  route.rt_flags = RTF_UP | RTF_HOST;
  std::string name = device;
  route.rt_dev = name.data();
  check(ioctl(open_socket().get(), SIOCADDRT, &route), "route to " + address + " by " + device);
}

}  // namespace starling::testbed
