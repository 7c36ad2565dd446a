//! What makes `https` out of a connection.

use super::Error;
#[cfg(tls)]
use ureq::tls::RootCerts;
use ureq::tls::TlsConfig;

/// Rustls with Graviola, or `None` if this CPU cannot run it.
#[cfg(tls)]
pub(super) fn config() -> Result<Option<TlsConfig>, Error> {
    use std::panic;
    let provider = rustls_graviola::default_provider();
    // On a CPU that it cannot use Graviola panics: here it may, unheard, before there is anything to lose.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let works = || provider.secure_random.fill(&mut [0; 32]).is_ok();
    let usable = panic::catch_unwind(panic::AssertUnwindSafe(works)).unwrap_or(false);
    panic::set_hook(hook);
    if !usable {
        return Ok(None);
    }
    let config = TlsConfig::builder().root_certs(roots()?);
    Ok(Some(config.unversioned_rustls_crypto_provider(std::sync::Arc::new(provider)).build()))
}

/// Graviola knows two architectures, and this is another.
#[cfg(not(tls))]
pub(super) fn config() -> Result<Option<TlsConfig>, Error> {
    Ok(None)
}

/// The roots in the file that `SSL_CERT_FILE` names, or Mozilla's.
#[cfg(tls)]
fn roots() -> Result<RootCerts, Error> {
    let Some(path) = crate::source::variable("SSL_CERT_FILE") else { return Ok(RootCerts::WebPki) };
    let path = std::path::PathBuf::from(path);
    let pem = std::fs::read(&path).map_err(super::cache::failed("read", &path))?;
    let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(certificates.collect::<Vec<_>>().into())
}
