//! Checks certificate files that the environment names.

use std::path::Path;

use qwen_base::{Environment, read_certificates};

use super::finding::{Finding, unset};

const ID: &str = "certificates";

pub fn check(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = Vec::new();
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
        let Some(path) = environment.get(variable) else { continue };
        let file = read_certificates(variable, Path::new(path));
        let count = file.certificates.len();
        match file.problem {
            None => named.push(format!("{variable} names {count}")),
            // The system's certificates and the readable ones in the file are still trusted.
            Some(problem) if count > 0 || variable == "NODE_EXTRA_CA_CERTS" => {
                findings.push(Finding::warning(ID, problem.message(), unset(variable)));
            }
            Some(problem) => findings.push(Finding::broken(ID, problem.message(), unset(variable))),
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
