#include "health.h"

#include "refusal.h"

namespace starling::predict {
namespace {

constexpr std::size_t kNameMax = 1024;

// HealthCheckRequest: the name of a service.
bool parse(const Spans& message, std::string& service) {
  wire::Reader reader(message);
  while (reader.more()) {
    wire::Tag tag;
    if (!reader.tag(tag)) return false;
    const bool is_service = tag.field == 1 && tag.type == wire::Type::kBytes;
    if (!(is_service ? reader.text(service, kNameMax) : reader.skip(tag.type))) return false;
  }
  return !reader.failed();
}

template <class State>
wire::Writer encode(State state) {
  wire::Writer message;
  message.varint(1, static_cast<std::uint64_t>(state));
  return message;
}

transport::Ending malformed() {
  return {
      transport::kInvalidArgument, "the message is no HealthCheckRequest; send the name of a service, or nothing", {}};
}

}  // namespace

class Health::Check final : public transport::Call {
 public:
  explicit Check(Health& health) : health_(health) {}

  void on_message(transport::Message&& message) override {
    answered_ = true;
    std::string service;
    if (!parse(message.spans(), service)) return finish(malformed());
    std::unique_lock lock(health_.mutex_);
    const auto state = health_.state_locked(service);
    lock.unlock();
    if (state != State::kUnknown) return finish(encode(state));
    finish({transport::kNotFound, "service \"" + clip_message(service) + "\" is not served by this node", {}});
  }

  void on_half_close() override {}
  void on_cancel() override {
    if (!answered_) finish(transport::Ending{});
  }

 private:
  Health& health_;
  bool answered_ = false;
};

// Tells the state now and whenever it changes, until the caller leaves.
class Health::Watch final : public transport::Call {
 public:
  explicit Watch(Health& health) : health_(health) {}

  void on_message(transport::Message&& message) override {
    if (finished_ || watching_) return;
    if (!parse(message.spans(), service_)) {
      finished_ = true;
      return finish(malformed());
    }
    watching_ = true;
    const std::lock_guard lock(health_.mutex_);
    health_.watches_.insert(this);
    tell_locked();
  }

  void on_half_close() override {}

  void on_cancel() override {
    {
      const std::lock_guard lock(health_.mutex_);
      health_.watches_.erase(this);
    }
    if (!std::exchange(finished_, true)) finish(transport::Ending{});
  }

  void tell_locked() {
    const auto state = health_.state_locked(service_);
    if (std::exchange(told_, state) != state) send(encode(state));
  }

 private:
  Health& health_;
  std::string service_;
  bool watching_ = false;
  bool finished_ = false;
  State told_{};
};

Health::Health(const std::vector<std::string>& services) {
  for (const auto& service : services) states_[service] = State::kNotServing;
}

Health::State Health::state_locked(const std::string& service) const {
  const auto found = states_.find(service);
  return found == states_.end() ? State::kUnknown : found->second;
}

void Health::set_serving(bool serving) {
  const std::lock_guard lock(mutex_);
  for (auto& [service, state] : states_) state = serving ? State::kServing : State::kNotServing;
  for (auto* watch : watches_) watch->tell_locked();
}

void Health::add_methods(transport::Methods& methods) {
  methods.by_name["/grpc.health.v1.Health/Check"] = {
      [this](transport::CallHead&&) { return std::make_unique<Check>(*this); }, 0};
  methods.by_name["/grpc.health.v1.Health/Watch"] = {
      [this](transport::CallHead&&) { return std::make_unique<Watch>(*this); }, 1};
}

}  // namespace starling::predict
