//! Reads certificate files that add to the system's certificates or replace them.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::error::{Code, Error};
use crate::safe_open;

/// Largest certificate file that is read.
const MAX_FILE: u64 = 32 * 1024 * 1024;
const BEGIN: &str = "-----BEGIN ";
/// PEM labels that OpenSSL accepts for a certificate.
const LABELS: [&str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];

/// Contents of a certificate file.
#[derive(Debug, Default)]
pub struct CertificateFile {
    /// Readable certificates.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Problem to report: an unreadable file, or unreadable certificates in it.
    pub problem: Option<Error>,
}

/// Reads the file that `variable` points to, as Node does: it skips a byte order mark and anything that is not a
/// certificate. An unreadable certificate doesn't affect the others.
#[must_use]
pub fn read_certificates(variable: &str, path: &Path) -> CertificateFile {
    let shown = path.display();
    let problem = |message: String| Some(Error::new(Code::InvalidConfig, message).with_path(path));
    let bytes = match safe_open::read(path, MAX_FILE) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            let message = format!(
                "{variable} points to {shown}, which is too large. Point it at a PEM file, or unset it."
            );
            return CertificateFile { problem: problem(message), ..CertificateFile::default() };
        }
        Err(error) => {
            let message = format!(
                "{variable} points to {shown}, which can't be read ({error}). Point it at a PEM file, or unset it."
            );
            return CertificateFile { problem: problem(message), ..CertificateFile::default() };
        }
    };
    let (certificates, unreadable) = parse(&bytes);
    let problem = match (certificates.len(), unreadable) {
        (0, _) => problem(format!(
            "{variable} points to {shown}, which has no readable certificates. Point it at a PEM file, or unset it."
        )),
        (_, 0) => None,
        (count, unreadable) => problem(format!(
            "{variable}: {unreadable} of the certificates in {shown} can't be read; the other {count} are used."
        )),
    };
    CertificateFile { certificates, problem }
}

/// Returns the certificates of a PEM file and the number of unreadable blocks.
fn parse(bytes: &[u8]) -> (Vec<CertificateDer<'static>>, usize) {
    let text = String::from_utf8_lossy(bytes);
    let (mut certificates, mut unreadable) = (Vec::new(), 0);
    for block in text.split(BEGIN).skip(1) {
        let Some((label, rest)) = block.split_once("-----") else { continue };
        if !LABELS.contains(&label) {
            continue;
        }
        let body = rest.split_once(&format!("-----END {label}-----")).map(|(body, _)| body);
        let der = body.and_then(|body| {
            let digits: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            STANDARD.decode(digits).ok()
        });
        let certificate = der.map(CertificateDer::from);
        match certificate.filter(|one| RootCertStore::empty().add(one.clone()).is_ok()) {
            Some(certificate) => certificates.push(certificate),
            None => unreadable += 1,
        }
    }
    (certificates, unreadable)
}
