// The seam every engine implements: native CPU engines now, GPU engines in another process later.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "request.h"
#include "tensor.h"

namespace starling {

// Where an engine reads one input: `bucket` rows, contiguous.
struct BatchInput {
  const std::uint8_t* data = nullptr;
  Shape shape;  // [bucket, ...]
  std::size_t size = 0;
};

// What an engine returns under one name: contiguous, valid until the slot's next batch.
struct BatchOutput {
  const std::uint8_t* data = nullptr;
  Shape shape;  // [bucket, ...]
  std::size_t size = 0;
};

// One engine call. `slot` is exclusive to the caller until done.
struct Batch {
  int slot = 0;
  std::int64_t bucket = 1;
  std::vector<BatchInput> inputs;    // signature order; borrowed until done
  std::vector<BatchOutput> outputs;  // signature order; filled by the engine
};

// Called exactly once per submit, on any thread; `error` is empty on success.
using Done = std::function<void(const std::string& error)>;

class Engine {
 public:
  virtual ~Engine() = default;

  // Runtime and device, such as "openvino_cpu".
  virtual std::string kind() const = 0;

  // What the engine itself reads and writes, before any post-processing.
  virtual const Signature& signature() const noexcept = 0;

  // Batches it can hold at once; all busy is the admission signal.
  virtual int slots() const noexcept = 0;

  // How the runtime runs it, for operators.
  virtual std::map<std::string, std::string> properties() const { return {}; }

  // Where the engine keeps input `index` of this bucket of this slot, if it has a fixed place for it: whoever writes
  // the rows there saves a copy. Null when it reads inputs where they are.
  virtual std::uint8_t* input_place(int slot, std::int64_t bucket, std::size_t index) noexcept {
    static_cast<void>(slot), static_cast<void>(bucket), static_cast<void>(index);
    return nullptr;
  }

  // Runs one batch. A synchronous engine calls `done` before it returns. Throwing instead of calling it fails the
  // batch.
  virtual void submit(Batch& batch, Done done) = 0;

  // Frees the runtime's resources; no batch is in flight.
  virtual void close() = 0;
};

}  // namespace starling
