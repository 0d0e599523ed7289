#include "event_loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "round.h"

namespace starling::transport {
namespace {

constexpr int kEventsMax = 128;

int checked(int fd, const char* what) {
  if (fd < 0) throw std::system_error(errno, std::generic_category(), what);
  return fd;
}

// What epoll gives back: a connection, or a tagged function; null for the wakeup.
std::uint64_t tag(std::function<void()>* ready) { return reinterpret_cast<std::uintptr_t>(ready) | 1; }

}  // namespace

EventLoop::EventLoop(ReceiveBudget& budget)
    : epoll_(checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      wakeup_(checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      memory_(budget) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wakeup_, &event);
}

EventLoop::EventLoop(ReceiveBudget& budget, const std::string& name) : EventLoop(budget) {
  thread_ = std::thread([this] { work(); });
  pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
}

EventLoop::~EventLoop() {
  stop(Clock::now());
  if (thread_.joinable()) {
    thread_.join();
  } else {
    work();
  }
  close(wakeup_);
  close(epoll_);
}

// One write wakes the loop, however many posts follow until it has taken them.
void EventLoop::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(wakeup_, &one, sizeof one);
}

void EventLoop::post(Post&& post) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    posts_.push_back(std::move(post));
    first = !std::exchange(woken_, true);
  }
  if (first && std::this_thread::get_id() != thread_.get_id()) wake();
}

void EventLoop::run(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    woken_ = true;
  }
  wake();
}

void EventLoop::stop(TimePoint until) {
  run([this, until] {
    if (std::exchange(stopping_, true)) return;
    for (auto* connection : connections_) connection->go_away();
    close_all_ = [this] {
      for (auto* connection : connections_) connection->close();
    };
    add_timer({until, &close_all_});
  });
}

void EventLoop::add(std::unique_ptr<Connection> connection) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = connection.get();
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, connection->fd(), &event) != 0) return;  // out of memory: it is closed
  connections_.insert(connection.release());
}

void EventLoop::watch(int fd, std::function<void()>* ready) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag(ready);
  epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
}

void EventLoop::unwatch(int fd) { epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr); }

void EventLoop::update(Connection& connection, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &connection;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd(), &event);
}

void EventLoop::work() {
  while (!stopping_ || calls_ > 0 || !connections_.empty()) turn();
}

void EventLoop::turn() {
  Round round;
  wait();
  round.run();
  // Answers of calls that ended while their messages were read go out with the same write.
  do {
    take_posts();
    run_timers();
    // Flushing may close a connection, which ends calls, which post.
    for (std::size_t i = 0; i < dirty_.size(); ++i) dirty_[i]->flush();
    dirty_.clear();
    for (auto* connection : closing_) {
      connections_.erase(connection);
      std::erase(again_, connection);
      delete connection;  // NOLINT: owned by the set, erased from it now
    }
    closing_.clear();
  } while (round.run() || !taken_.empty());
}

void EventLoop::wait() {
  int timeout_ms = -1;
  {
    const std::lock_guard lock(mutex_);
    if (!posts_.empty() || !tasks_.empty() || !again_.empty()) timeout_ms = 0;
  }
  if (timeout_ms < 0 && !timers_.empty()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now()).count();
    timeout_ms = static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
  }
  std::array<epoll_event, kEventsMax> events;
  const int count = epoll_wait(epoll_, events.data(), kEventsMax, timeout_ms);
  for (auto* connection : std::exchange(again_, {})) connection->on_ready(EPOLLIN);
  for (int i = 0; i < count; ++i) {
    const auto& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == 0) {
      std::uint64_t drained = 0;
      [[maybe_unused]] const auto got = read(wakeup_, &drained, sizeof drained);
    } else if ((event.data.u64 & 1) != 0) {
      (*reinterpret_cast<std::function<void()>*>(event.data.u64 & ~std::uint64_t{1}))();
    } else {
      static_cast<Connection*>(event.data.ptr)->on_ready(event.events);
    }
  }
}

void EventLoop::take_posts() {
  std::vector<std::function<void()>> tasks;
  taken_.clear();
  {
    const std::lock_guard lock(mutex_);
    taken_.swap(posts_);
    tasks.swap(tasks_);
    woken_ = false;
  }
  for (auto& task : tasks) task();
  for (auto& post : taken_) Connection::answer(*this, std::move(post));
}

void EventLoop::run_timers() {
  while (!timers_.empty() && timers_.begin()->first <= Clock::now()) {
    auto* due = timers_.begin()->second;
    timers_.erase(timers_.begin());
    (*due)();
  }
}

}  // namespace starling::transport
