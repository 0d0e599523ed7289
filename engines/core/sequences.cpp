#include "sequences.h"

#include <algorithm>
#include <cassert>

namespace starling {
namespace {

StateRows zeros(const std::vector<StateSpec>& states) {
  StateRows rows;
  for (const auto& state : states) {
    rows.emplace_back(*byte_size(state.input.data_type, state.input.dims.data(), state.input.dims.size()));
  }
  return rows;
}

// No header holds a NUL, so no two pairs share a key.
std::string key_of(const Request& request) { return request.tenant + '\0' + request.sequence_id; }

}  // namespace

Sequences::Sequences(const SequenceOptions& options) : options_(options) {}

Status Sequences::missing(const Request& request) const {
  return {Reason::kSequenceNotFound,
          "there is no sequence \"" + request.sequence_id + "\": it was not started here, has ended, was idle for " +
              std::to_string(options_.idle_us) +
              " us, or made room for another tenant; send its first step again, with sequence_start",
          0,
          {{"sequence_id", request.sequence_id}}};
}

Status Sequences::full(TimePoint now) const {
  const auto oldest = idle_.empty() ? now : idle_.front()->idle_since_;
  const auto expires = microseconds_between(now, oldest) + options_.idle_us;
  return {Reason::kSequencesFull,
          std::to_string(open_.size()) + " sequences are kept already, at most " +
              std::to_string(options_.sequences_max) +
              "; end one with sequence_end, retry after the delay or on another node",
          std::max<std::int64_t>(1000, expires),
          {{"sequences", std::to_string(open_.size())}}};
}

void Sequences::refused(const Request& request) {
  if (!request.sequence_start) return;
  if (const auto it = open_.find(key_of(request)); it != open_.end()) close(it);
}

Status Sequences::enter(Request& request, TimePoint now) {
  sweep(now);
  auto key = key_of(request);
  auto it = open_.find(key);
  if (request.sequence_start) {
    if (it != open_.end()) {
      close(it);
    } else if (open_.size() >= options_.sequences_max && !make_room_for(request.tenant)) {
      return full(now);
    }
    auto begun = std::make_shared<Sequence>();
    begun->key_ = key;
    begun->tenant_ = request.tenant;
    ++tenants_[request.tenant].open;
    begun->state = zeros(options_.states);
    begun->next = begun->state;
    it = open_.emplace(std::move(key), std::move(begun)).first;
    ++started_;
  } else if (it == open_.end()) {
    return missing(request);
  } else if (it->second->line_.empty()) {
    wake(*it->second);
  }
  auto& line = it->second->line_;
  if (!line.empty()) {
    waiting_.emplace(&request, request.deadline);
    deadlines_.emplace(request.deadline, &request);
    waiting_bytes_ += request.size_bytes;
  }
  line.push_back(&request);
  request.sequence_state = it->second;
  return {};
}

bool Sequences::has_turn(const Request& request) const noexcept {
  return request.sequence_state->line_.front() == &request;
}

std::size_t Sequences::ahead_of(const Request& request) const noexcept {
  const auto& line = request.sequence_state->line_;
  return static_cast<std::size_t>(std::find(line.begin(), line.end(), &request) - line.begin());
}

Status Sequences::check(const Request& request) const {
  return request.sequence_state->over_ ? missing(request) : Status{};
}

// New steps do not find it any more; those in line keep it.
void Sequences::close(Open::iterator it) {
  auto& sequence = *it->second;
  if (sequence.line_.empty()) wake(sequence);
  if (const auto tenant = tenants_.find(sequence.tenant_); --tenant->second.open == 0) tenants_.erase(tenant);
  sequence.open_ = false;
  open_.erase(it);
}

Request* Sequences::leave(Request& request, bool answered, TimePoint now) {
  const auto sequence = std::exchange(request.sequence_state, nullptr);
  assert(sequence->line_.front() == &request && "only who has the turn can end it");
  if (answered) std::swap(sequence->state, sequence->next);
  if (answered ? request.sequence_end : request.sequence_start) {
    sequence->over_ = true;
    if (sequence->open_) close(open_.find(sequence->key_));
  }
  auto& line = sequence->line_;
  line.pop_front();
  if (!line.empty()) {
    stop_waiting(*line.front(), waiting_.at(line.front()));
    return line.front();
  }
  if (sequence->open_) rest(*sequence, now);
  return nullptr;
}

void Sequences::rest(Sequence& sequence, TimePoint now) {
  auto& of_tenant = tenants_.at(sequence.tenant_).idle;
  sequence.idle_since_ = now;
  sequence.idle_ = idle_.insert(idle_.end(), &sequence);
  sequence.idle_of_tenant_ = of_tenant.insert(of_tenant.end(), &sequence);
}

void Sequences::wake(Sequence& sequence) {
  idle_.erase(sequence.idle_);
  tenants_.at(sequence.tenant_).idle.erase(sequence.idle_of_tenant_);
}

// Forgets the longest idle sequence of the tenant that keeps most, if that leaves it no fewer than the newcomer.
bool Sequences::make_room_for(const std::string& tenant) {
  const auto own = tenants_.find(tenant);
  const auto kept = own == tenants_.end() ? 0 : own->second.open;
  const auto most = std::max_element(tenants_.begin(), tenants_.end(),
                                     [](const auto& a, const auto& b) { return a.second.open < b.second.open; });
  if (most == tenants_.end() || most->second.open <= kept + 1 || most->second.idle.empty()) return false;
  close(open_.find(most->second.idle.front()->key_));
  ++displaced_;
  return true;
}

void Sequences::stop_waiting(Request& request, TimePoint deadline) {
  deadlines_.erase({deadline, &request});
  waiting_.erase(&request);
  waiting_bytes_ -= request.size_bytes;
}

bool Sequences::remove(Request& request) {
  const auto it = waiting_.find(&request);
  if (it == waiting_.end()) return false;
  stop_waiting(request, it->second);
  auto& line = request.sequence_state->line_;
  line.erase(std::find(line.begin(), line.end(), &request));
  request.sequence_state.reset();
  return true;
}

std::vector<Request*> Sequences::purge(TimePoint now) {
  std::vector<Request*> expired;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    expired.push_back(deadlines_.begin()->second);
    remove(*expired.back());
  }
  return expired;
}

std::vector<Request*> Sequences::drain() {
  std::vector<Request*> all;
  for (const auto& [deadline, request] : deadlines_) all.push_back(request);
  for (Request* request : all) remove(*request);
  return all;
}

void Sequences::sweep(TimePoint now) {
  const auto idle = std::chrono::microseconds(options_.idle_us);
  while (!idle_.empty() && idle_.front()->idle_since_ + idle <= now) {
    ++expired_;
    close(open_.find(idle_.front()->key_));
  }
}

TimePoint Sequences::next_deadline() const noexcept {
  return deadlines_.empty() ? TimePoint::max() : deadlines_.begin()->first;
}

}  // namespace starling
