// Who may connect: TLS with client certificates, which may be replaced while the server runs.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace starling::transport {

struct TlsIdentity {
  std::string certificate;  // PEM: the chain, its own first
  std::string key;          // PEM
  std::string client_ca;    // PEM: authorities of clients
};

// True when one of `uris` is, or lies below, one of `allowed`; also when `allowed` is empty.
bool is_allowed(const std::vector<std::string>& uris, const std::vector<std::string>& allowed);

// What new connections are secured with; those that exist keep what they began with. Thread-safe.
class Tls {
 public:
  // clients: SPIFFE ids that may connect, those ending in '/' with all below; empty: all.
  // Throws Error(kInvalidConfig) when the identity cannot be used.
  Tls(const TlsIdentity& identity, std::vector<std::string> clients);

  void replace(const TlsIdentity& identity);

  std::shared_ptr<SSL_CTX> context() const;

  // Handshakes of clients whose certificate is good but whose name is not allowed.
  std::uint64_t refused() const noexcept { return refused_.load(std::memory_order_relaxed); }

 private:
  static int verify(int good, X509_STORE_CTX* store);

  const std::vector<std::string> clients_;
  std::atomic<std::uint64_t> refused_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<SSL_CTX> context_;  // guarded by mutex_
};

}  // namespace starling::transport
