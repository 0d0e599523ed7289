// A refusal in the words of gRPC: a text of bounded size and google.rpc details.
#pragma once

#include <string>
#include <string_view>

#include "wire.h"

namespace starling::predict {

// At most 1 KiB of UTF-8, marked where it was cut: what a refusal says to people.
std::string clip_message(const std::string& text);

// google.protobuf.Duration.
wire::Writer encode_duration(std::int64_t us);

// The facts of a refusal as a map<string, string>.
void write_facts(wire::Writer& out, std::uint32_t field, const Status& status);

// Serialised google.rpc.Status of this code with ErrorInfo (domain "starling") and, for a retry delay, RetryInfo:
// the value of the grpc-status-details-bin trailer.
std::string encode_details(const Status& status, int code, std::string_view request_id);

}  // namespace starling::predict
