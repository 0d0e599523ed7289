// Why a request was not answered, in the words every layer shares.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace starling {

// Stable reasons; see PredictService in predict_service.proto. kNone means success.
enum class Reason : std::uint8_t {
  kNone = 0,
  kInvalidInput,
  kModelNotFound,
  kModelNotReady,
  kQueueFull,
  kDeadlinePassed,
  kCancelled,
  kDraining,
  kEngineFailed,
  kCorruptModel,
  kInvalidConfig,
  kDeadlineUnmeetable,
  kSuperseded,
  kSequenceNotFound,
  kSequencesFull,
  kAlreadyExists,
};

inline constexpr int kReasonCount = 16;

// Name on the wire and in metrics, such as "QUEUE_FULL".
constexpr std::string_view name(Reason reason) noexcept {
  constexpr std::string_view kNames[kReasonCount] = {
      "OK",         "INVALID_INPUT",      "MODEL_NOT_FOUND", "MODEL_NOT_READY", "QUEUE_FULL",     "DEADLINE_PASSED",
      "CANCELLED",  "DRAINING",           "ENGINE_FAILED",   "CORRUPT_MODEL",   "INVALID_CONFIG", "DEADLINE_UNMEETABLE",
      "SUPERSEDED", "SEQUENCE_NOT_FOUND", "SEQUENCES_FULL",  "ALREADY_EXISTS"};
  return kNames[static_cast<int>(reason)];
}

// Canonical gRPC status code of a reason, as a number so that this layer stays free of gRPC.
constexpr int canonical_code(Reason reason) noexcept {
  constexpr int kCodes[kReasonCount] = {0, 3, 5, 9, 8, 4, 1, 14, 13, 9, 9, 8, 10, 3, 8, 6};
  return kCodes[static_cast<int>(reason)];
}

// The outcome of a request. `facts` become ErrorInfo metadata.
struct Status {
  Reason reason = Reason::kNone;
  std::string message;
  std::int64_t retry_delay_us = 0;  // 0: do not try again
  std::vector<std::pair<std::string, std::string>> facts;

  bool ok() const noexcept { return reason == Reason::kNone; }
};

// Unless the status says it already.
inline void add_fact(Status& status, std::string_view key, std::string value) {
  const auto same = [&](const auto& fact) { return fact.first == key; };
  if (std::none_of(status.facts.begin(), status.facts.end(), same)) status.facts.emplace_back(key, std::move(value));
}

// Thrown while loading, never on the request path.
class Error : public std::runtime_error {
 public:
  Error(Reason reason, const std::string& message) : std::runtime_error(message), reason_(reason) {}
  Reason reason() const noexcept { return reason_; }

 private:
  Reason reason_;
};

}  // namespace starling
