// One thread that waits for sockets, answers and deadlines.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_set>
#include <vector>

#include "call.h"
#include "connection.h"
#include "send_memory.h"

namespace starling::transport {

// What an answering thread hands to the loop of its call.
struct Post {
  Call* call = nullptr;
  wire::Encoded message;
  bool has_message = false;
  bool ends = false;
  Ending ending;
};

// Its connections and their calls belong to its thread alone; post() and run() may be called by any.
class EventLoop {
 public:
  // With a thread of its own.
  EventLoop(ReceiveBudget& budget, const std::string& name);
  // Without: the caller's thread is the loop's whenever it calls turn().
  explicit EventLoop(ReceiveBudget& budget);
  // Every call has ended.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  void post(Post&& post);
  // Runs `task` on the loop's thread.
  void run(std::function<void()> task);

  // Waits for what is next, and does it.
  void turn();

  // Sends every peer away, closes what is left at `until`; the thread ends when all calls have.
  void stop(TimePoint until);

  // Of the loop's thread:
  void add(std::unique_ptr<Connection> connection);
  // Calls `ready` when `fd` is readable, until remove(). Used for listeners.
  void watch(int fd, std::function<void()>* ready);
  void unwatch(int fd);

  void update(Connection& connection, std::uint32_t events);
  void set_dirty(Connection& connection) { dirty_.push_back(&connection); }
  // Reads on in the next round, whatever epoll says.
  void read_again(Connection& connection) { again_.push_back(&connection); }
  void close_later(Connection& connection) { closing_.push_back(&connection); }
  void call_made() noexcept { ++calls_; }
  void call_ended() noexcept { --calls_; }
  ReceiveMemory& memory() noexcept { return memory_; }
  SendMemory& send_memory() noexcept { return send_memory_; }

  using Timer = std::pair<TimePoint, std::function<void()>*>;
  void add_timer(const Timer& timer) { timers_.insert(timer); }
  void remove_timer(const Timer& timer) { timers_.erase(timer); }

 private:
  void work();
  void wait();
  void take_posts();
  void run_timers();
  void wake();

  const int epoll_;
  const int wakeup_;
  ReceiveMemory memory_;
  SendMemory send_memory_;
  std::unordered_set<Connection*> connections_;  // owned
  std::vector<Connection*> dirty_;
  std::vector<Connection*> closing_;
  std::vector<Connection*> again_;
  std::set<Timer> timers_;
  std::function<void()> close_all_;
  std::size_t calls_ = 0;
  bool stopping_ = false;

  std::mutex mutex_;
  std::vector<Post> posts_;                   // guarded by mutex_
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
  bool woken_ = false;                        // guarded by mutex_
  std::vector<Post> taken_;                   // the loop's, kept for its memory
  std::thread thread_;                        // last: uses all above
};

}  // namespace starling::transport
