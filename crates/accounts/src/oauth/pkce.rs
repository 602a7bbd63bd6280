//! Proof Key for Code Exchange (RFC 7636).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qwen_base::{Error, Result, Secret};
use sha2::{Digest, Sha256};

/// The only challenge method of this package (RFC 7636 section 4.2).
pub const CODE_CHALLENGE_METHOD: &str = "S256";

/// Returns a code verifier: 32 random bytes in base64url, 43 characters (RFC 7636 section 4.1).
///
/// # Errors
/// `ERR_QWEN_INTERNAL` if the system provides no random bytes.
pub fn code_verifier() -> Result<Secret> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// Returns the S256 challenge of a verifier (RFC 7636 section 4.2).
pub fn code_challenge(verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenge_of_the_rfc_example() {
        // RFC 7636 appendix B.
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(code_challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn verifiers_are_43_url_safe_characters_and_differ() {
        let (one, two) = (code_verifier().unwrap(), code_verifier().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(one, two);
    }
}
