#include "link.h"

#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/sync_stream.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

namespace starling::predict {
namespace {

using grpc::internal::RpcMethod;

grpc::ByteBuffer buffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

std::string bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string out;
  if (!buffer.Dump(&slices).ok()) return out;
  out.reserve(buffer.Length());
  for (const auto& slice : slices) out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return out;
}

LinkReply reply(const grpc::Status& status, std::string payload = {}) {
  return {static_cast<int>(status.error_code()), status.error_message(), std::move(payload)};
}

// Looks at the server's names after the handshake has proved them.
class ServerVerifier final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit ServerVerifier(std::string server) : server_(std::move(server)) {}

  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* status) override {
    const auto uris = request->uri_names();
    const bool known = std::any_of(uris.begin(), uris.end(), [&](const auto& found) {
      const std::string_view uri(found.data(), found.size());
      return server_.ends_with('/') ? uri.starts_with(server_) : uri == server_;
    });
    if (!known) *status = {grpc::StatusCode::UNAUTHENTICATED, "its certificate is not of " + server_};
    return true;
  }

  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}  // Verify never waits

 private:
  const std::string server_;
};

std::shared_ptr<grpc::ChannelCredentials> credentials(const LinkTls& tls) {
  using namespace grpc::experimental;
  TlsChannelCredentialsOptions options;
  // Fixed: renewed ones come with a new link.
  const std::vector<IdentityKeyCertPair> pairs{{tls.key, tls.certificate}};
  options.set_certificate_provider(std::make_shared<StaticDataCertificateProvider>(tls.authorities, pairs));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  if (tls.server.empty()) {
    options.set_certificate_verifier(std::make_shared<HostNameCertificateVerifier>());
  } else {
    // An identity instead of a host name: other members of the mesh hold certificates for the same hosts.
    options.set_check_call_host(false);
    options.set_certificate_verifier(ExternalCertificateVerifier::Create<ServerVerifier>(tls.server));
  }
  return TlsCredentials(options);
}

}  // namespace

LinkStream::LinkStream(std::shared_ptr<grpc::Channel> channel, std::string method)
    : channel_(std::move(channel)), method_(std::move(method)) {
  const RpcMethod rpc(method_.c_str(), RpcMethod::BIDI_STREAMING, channel_);
  stream_.reset(grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(channel_.get(),
                                                                                                      rpc, &context_));
}

LinkStream::~LinkStream() {
  cancel();
  // gRPC wants every stream finished before it goes, and everything read before it is finished.
  if (!finished_) {
    while (read()) {
    }
    finish();
  }
}

bool LinkStream::write(const std::string& message) { return stream_->Write(buffer(message)); }

std::optional<std::string> LinkStream::read() {
  grpc::ByteBuffer message;
  if (!stream_->Read(&message)) return std::nullopt;
  return bytes(message);
}

LinkReply LinkStream::finish() {
  finished_ = true;
  return reply(stream_->Finish());
}

Link::Link(const std::string& target, const std::optional<LinkTls>& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // How long an attempt may take, its handshake included, which a starved machine needs; not how often one is made.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A peer that vanished without a word is noticed; the control plane allows such pings.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  channel_ = grpc::CreateCustomChannel(target, tls ? credentials(*tls) : grpc::InsecureChannelCredentials(), arguments);
}

LinkReply Link::call(const std::string& method, const std::string& payload, std::chrono::milliseconds timeout) {
  // A connection only comes about while somebody waits for it. Once an attempt has failed, calls fail at once and wait
  // for nothing, so the handshakes of later attempts would never end.
  channel_->WaitForConnected(std::chrono::system_clock::now() + timeout);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  const RpcMethod rpc(method.c_str(), RpcMethod::NORMAL_RPC, channel_);
  grpc::ByteBuffer response;
  const auto status = grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
      channel_.get(), rpc, &context, buffer(payload), &response);
  return reply(status, status.ok() ? bytes(response) : std::string());
}

}  // namespace starling::predict
