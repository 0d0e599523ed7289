// Who may connect: TLS with client certificates, from files that may change while the server runs.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace starling::predict {

struct TlsOptions {
  std::string identity_file;         // PEM: private key and certificate chain in one file; empty: plain text
  std::string client_ca_file;        // PEM: authorities of clients
  std::vector<std::string> clients;  // SPIFFE ids that may connect, those ending in '/' with all below; empty: all
};

// True when one of `uris` is, or lies below, one of `allowed`; also when `allowed` is empty.
bool is_allowed(const std::vector<std::string>& uris, const std::vector<std::string>& allowed);

// Plain text without an identity. Files are read again every second. Counts handshakes of clients whose certificate
// is good but whose name is not allowed.
std::shared_ptr<grpc::ServerCredentials> make_credentials(const TlsOptions& options,
                                                          std::shared_ptr<std::atomic<std::uint64_t>> refused);

}  // namespace starling::predict
