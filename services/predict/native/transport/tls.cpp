#include "tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <string_view>

#include "status.h"

namespace starling::transport {
namespace {

bool matches(std::string_view uri, std::string_view allowed) {
  return allowed.ends_with('/') ? uri.starts_with(allowed) : uri == allowed;
}

template <auto kFree>
struct Free {
  template <class T>
  void operator()(T* one) const noexcept {
    kFree(one);
  }
};

using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;

Bio open_pem(const std::string& pem) { return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))); }

Certificate read_certificate(BIO* bio) { return Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr)); }

void require(bool good, const char* what) {
  if (good) return;
  const auto* why = ERR_reason_error_string(ERR_peek_last_error());
  std::string text = std::string(what) + " cannot be used for TLS" + (why ? std::string(": ") + why : "");
  ERR_clear_error();
  throw Error(Reason::kInvalidConfig, text + "; write matching PEM files");
}

int select_h2(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* in, unsigned in_size, void*) {
  static constexpr unsigned char kH2[] = "\x02h2";
  auto* selected = const_cast<unsigned char**>(out);  // NOLINT: OpenSSL's signature
  return SSL_select_next_proto(selected, size, kH2, sizeof kH2 - 1, in, in_size) == OPENSSL_NPN_NEGOTIATED
             ? SSL_TLSEXT_ERR_OK
             : SSL_TLSEXT_ERR_ALERT_FATAL;
}

std::vector<std::string> uris_of(X509* certificate) {
  std::vector<std::string> uris;
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  const std::unique_ptr<GENERAL_NAMES, Free<GENERAL_NAMES_free>> owner(names);
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const auto* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_URI) continue;
    const auto* text = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                      static_cast<std::size_t>(ASN1_STRING_length(text)));
  }
  return uris;
}

int tls_index() {
  static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

}  // namespace

bool is_allowed(const std::vector<std::string>& uris, const std::vector<std::string>& allowed) {
  return allowed.empty() || std::any_of(uris.begin(), uris.end(), [&](const auto& uri) {
           return std::any_of(allowed.begin(), allowed.end(), [&](const auto& one) { return matches(uri, one); });
         });
}

Tls::Tls(const TlsIdentity& identity, std::vector<std::string> clients) : clients_(std::move(clients)) {
  replace(identity);
}

void Tls::replace(const TlsIdentity& identity) {
  ERR_clear_error();
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  require(context != nullptr, "OpenSSL");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  // A resumed session would skip the look at a certificate that is not good any more.
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_num_tickets(context.get(), 0);

  const auto chain = open_pem(identity.certificate);
  const auto own = read_certificate(chain.get());
  require(own && SSL_CTX_use_certificate(context.get(), own.get()) == 1, "the certificate");
  while (const auto next = read_certificate(chain.get())) {
    require(SSL_CTX_add1_chain_cert(context.get(), next.get()) == 1, "the chain of the certificate");
  }
  const std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>> key(
      PEM_read_bio_PrivateKey(open_pem(identity.key).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();  // the end of the chain is one
  require(key && SSL_CTX_use_PrivateKey(context.get(), key.get()) == 1, "the private key");

  auto* store = SSL_CTX_get_cert_store(context.get());
  const auto authorities = open_pem(identity.client_ca);
  int count = 0;
  while (const auto next = read_certificate(authorities.get())) {
    require(X509_STORE_add_cert(store, next.get()) == 1, "an authority of clients");
    ++count;
  }
  require(count > 0, "the file of authorities of clients");
  ERR_clear_error();
  SSL_CTX_set_ex_data(context.get(), tls_index(), this);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify);
  SSL_CTX_set_alpn_select_cb(context.get(), select_h2, nullptr);
  const std::lock_guard lock(mutex_);
  context_ = std::move(context);
}

std::shared_ptr<SSL_CTX> Tls::context() const {
  const std::lock_guard lock(mutex_);
  return context_;
}

// Looks at names once the chain is proved: at its end, where the client's own certificate is.
int Tls::verify(int good, X509_STORE_CTX* store) {
  if (good != 1 || X509_STORE_CTX_get_error_depth(store) != 0) return good;
  auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* self = static_cast<Tls*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), tls_index()));
  if (is_allowed(uris_of(X509_STORE_CTX_get_current_cert(store)), self->clients_)) return 1;
  self->refused_.fetch_add(1, std::memory_order_relaxed);
  X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
  return 0;
}

}  // namespace starling::transport
