#include "tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <string_view>

namespace starling::predict {
namespace {

constexpr unsigned kPollSeconds = 1;

bool matches(std::string_view uri, std::string_view allowed) {
  return allowed.ends_with('/') ? uri.starts_with(allowed) : uri == allowed;
}

// Looks at names after the handshake has proved them; once per connection, never per call.
class NameVerifier final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  NameVerifier(std::vector<std::string> allowed, std::shared_ptr<std::atomic<std::uint64_t>> refused)
      : allowed_(std::move(allowed)), refused_(std::move(refused)) {}

  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* status) override {
    std::vector<std::string> uris;
    for (const auto uri : request->uri_names()) uris.emplace_back(uri.data(), uri.size());
    if (is_allowed(uris, allowed_)) return true;
    refused_->fetch_add(1, std::memory_order_relaxed);
    *status = {grpc::StatusCode::UNAUTHENTICATED, "the client's SPIFFE id is not among --tls-client"};
    return true;
  }

  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}  // Verify never waits

 private:
  const std::vector<std::string> allowed_;
  const std::shared_ptr<std::atomic<std::uint64_t>> refused_;
};

}  // namespace

bool is_allowed(const std::vector<std::string>& uris, const std::vector<std::string>& allowed) {
  return allowed.empty() || std::any_of(uris.begin(), uris.end(), [&](const auto& uri) {
           return std::any_of(allowed.begin(), allowed.end(), [&](const auto& one) { return matches(uri, one); });
         });
}

std::shared_ptr<grpc::ServerCredentials> make_credentials(const TlsOptions& options,
                                                          std::shared_ptr<std::atomic<std::uint64_t>> refused) {
  if (options.identity_file.empty()) return grpc::InsecureServerCredentials();
  using grpc::experimental::FileWatcherCertificateProvider;
  grpc::experimental::TlsServerCredentialsOptions tls(std::make_shared<FileWatcherCertificateProvider>(
      options.identity_file, options.identity_file, options.client_ca_file, kPollSeconds));
  tls.watch_identity_key_cert_pairs();
  tls.watch_root_certs();
  tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  tls.set_certificate_verifier(
      grpc::experimental::ExternalCertificateVerifier::Create<NameVerifier>(options.clients, std::move(refused)));
  return grpc::experimental::TlsServerCredentials(tls);
}

}  // namespace starling::predict
