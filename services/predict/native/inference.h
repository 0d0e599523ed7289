// One request from its message to its answer, whoever carries it in whatever format: first choice, caches,
// alternatives.
#pragma once

#include <mutex>

#include "codec.h"
#include "luma.h"
#include "node.h"

namespace starling::predict {

// A request that walks down its ladder: the frame cache when it is allowed, the model it names, then what it allows
// instead. Ends in exactly one deliver() or refuse(), maybe before start() returns, on any thread, with no lock held.
class Inference : public Request {
 public:
  // Takes the next step after the model's answer.
  void complete(Result&& result) noexcept final;

  // The caller has gone: a queued request leaves its queue, a running one just loses its answer.
  void abandon();

 protected:
  explicit Inference(Node& node) : node_(node) {}

  // `parsed` is what parsing the message into `view` said; `routed` is "NAME:VERSION", the version of requests for that
  // model which name none, or empty. `arrival` and `deadline` are set.
  void start(Status parsed, RequestView&& view, std::string tenant, std::string_view routed);

  virtual void deliver(const Answer& answer) noexcept = 0;
  virtual void refuse(const Status& status) noexcept = 0;

  const RequestView& view() const noexcept { return view_; }

 private:
  void attempt(const std::string& model_name, std::int64_t version);
  void turn_down(Status status);
  void next_alternative(Status why);
  bool answer_from_frames(const CachePolicy& policy, std::string_view degraded_to);
  bool answer_from_responses();
  void remember(const std::vector<OutputTensor>& outputs);
  Status open_regions();
  Status open_sinks();
  void send(Answer answer);
  void send_cached(Answer answer);
  bool is_frame_model(const Model& model) const;
  std::shared_ptr<Model> model() const;

  Node& node_;
  RequestView view_;
  std::size_t next_ = 0;  // in view_.allow
  std::string degraded_to_;
  Status first_refusal_;
  std::shared_ptr<Model> first_choice_;                 // whose answers the frame cache holds
  std::vector<std::shared_ptr<const Buffer>> fetched_;  // inputs that the response cache compared
  std::optional<Luma> luma_;                            // of this frame, computed when first needed
  std::optional<ResponseKey> response_key_;
  mutable std::mutex mutex_;
  std::shared_ptr<Model> model_;  // guarded by mutex_: who has the request now
};

}  // namespace starling::predict
