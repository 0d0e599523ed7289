// The texts of gRPC's headers and trailers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "request.h"

namespace starling::transport {

// The time that `grpc-timeout` grants, such as "250u"; nothing when it is malformed. Clients that count in whole
// milliseconds round what is left up to the next one: of such a time half of one is taken off.
std::optional<Clock::duration> parse_timeout(std::string_view text) noexcept;

// `grpc-message`: printable ASCII but '%', the rest as %XX.
std::string percent_encode(std::string_view text);

// Values of "-bin" headers, without padding.
std::string base64_encode(std::string_view bytes);

}  // namespace starling::transport
