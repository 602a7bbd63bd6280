//! Files of certificates that the environment names.

use std::path::Path;

use super::finding::{Finding, unset};
use crate::environment::Environment;
use crate::http;

const ID: &str = "certificates";

pub fn check(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = Vec::new();
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
        let Some(path) = environment.get(variable) else { continue };
        match http::count_certificates(variable, Path::new(path)) {
            Ok(count) => named.push(format!("{variable} names {count}")),
            Err(error) => findings.push(Finding::broken(ID, error.message(), unset(variable))),
        }
    }
    if findings.is_empty() {
        let message = if named.is_empty() {
            "The system's certificates are trusted.".to_owned()
        } else {
            format!("Certificates: {}.", named.join(", "))
        };
        findings.push(Finding::ok(ID, message));
    }
    findings
}
