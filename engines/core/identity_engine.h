// Returns its inputs: the engine that measures everything but an engine.
#pragma once

#include "engine.h"

namespace starling {

// Output i is a copy of input i. The signature must pair them up. An optional delay stands for work
// (settable latency for tests); `fail_every` > 0 makes each n-th batch fail.
class IdentityEngine final : public Engine {
 public:
  struct Options {
    int slots = 1;
    std::int64_t delay_us = 0;
    std::int64_t fail_every = 0;
  };

  IdentityEngine(Signature signature, Options options);

  std::string kind() const override { return "identity_cpu"; }
  const Signature& signature() const noexcept override { return signature_; }
  int slots() const noexcept override { return options_.slots; }
  void submit(Batch& batch, Done done) override;
  void close() override {}

 private:
  Signature signature_;
  Options options_;
  std::atomic<std::int64_t> batches_{0};
};

}  // namespace starling
