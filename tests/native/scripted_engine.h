// An engine for tests that returns its inputs after doing what the test says: wait, hang, throw.
#pragma once

#include <functional>

#include "identity_engine.h"

namespace starling::testing {

class ScriptedEngine final : public Engine {
 public:
  // before_run: called on the thread of every run, on several at once when there are several slots.
  ScriptedEngine(Signature signature, int slots, std::function<void()> before_run)
      : inner_(std::move(signature), IdentityEngine::Options{slots, 0, 0}), before_run_(std::move(before_run)) {}
  std::string kind() const override { return "scripted"; }
  const Signature& signature() const noexcept override { return inner_.signature(); }
  int slots() const noexcept override { return inner_.slots(); }
  void submit(Batch& batch, Done done) override {
    before_run_();
    inner_.submit(batch, std::move(done));
  }
  void close() override {}

 private:
  IdentityEngine inner_;
  std::function<void()> before_run_;
};

}  // namespace starling::testing
