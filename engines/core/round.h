// What a thread puts off until it has taken all that came at once, so that it can be done together.
#pragma once

#include <memory>
#include <vector>

namespace starling {

// Of one thread, and of that thread alone. While it lives, what runs on the thread may put work off to its next run().
class Round {
 public:
  class Work {
   public:
    virtual ~Work() = default;
    virtual void run_waiting() = 0;
  };

  Round();
  ~Round();
  Round(const Round&) = delete;
  Round& operator=(const Round&) = delete;

  // That of the calling thread; null when it has none.
  static Round* current() noexcept;

  // Has run() do the work, once however often it is put off.
  void put_off(std::weak_ptr<Work> work);

  // Does what was put off; false when nothing was.
  bool run();

 private:
  std::vector<std::weak_ptr<Work>> works_;
};

}  // namespace starling
