//! Tokens that let a page in a browser read one company's balance for a while.
//!
//! `tbp_<key>_<company>_<expires>_<signature>`: made from the API key that asked for it, and signed with the hash of
//! that key's secret. So nothing has to be kept, every process knows it, and it ends with its key.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{OperationError, api_keys::hex};
use crate::storage::LiveApiKey;

/// No token is valid for longer, in seconds.
pub(crate) const VALID_MAX: i64 = 24 * 60 * 60;
/// As far apart as the clocks of two processes may be.
const CLOCKS_APART: Duration = Duration::minutes(1);
/// So that no other signature of the same secret is taken for one of these.
const WHAT: &str = "token-billing portal token";

/// A token, new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct PortalToken {
    /// To be sent as a key is: `Authorization: Bearer tbp_…`.
    pub(crate) token: String,
    pub(crate) company_id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) expires_at: OffsetDateTime,
}

/// What a token says, until it is known whether that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortalTokenClaim {
    /// The key it was made from.
    pub(crate) key_id: Uuid,
    pub(crate) company_id: Uuid,
    expires: i64,
    signature: [u8; 32],
}

impl PortalToken {
    /// Signed with that key, valid from now on for so many seconds.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: not 1 to [`VALID_MAX`] seconds.
    pub(crate) fn issue(
        key: &LiveApiKey,
        company_id: Uuid,
        seconds: i64,
    ) -> Result<Self, OperationError> {
        if !(1..=VALID_MAX).contains(&seconds) {
            let why = format!("{seconds} is not in 1..={VALID_MAX} seconds");
            return Err(OperationError::invalid("expires_in", why));
        }
        let expires = OffsetDateTime::now_utc().unix_timestamp() + seconds;
        let expires_at = OffsetDateTime::from_unix_timestamp(expires)
            .map_err(|error| OperationError::Internal(error.to_string()))?;
        let key_id = key.key.id;
        let signature = signing(&key.secret_sha256, key_id, company_id, expires).finalize();
        let token = format!(
            "tbp_{}_{}_{expires}_{}",
            key_id.simple(),
            company_id.simple(),
            hex(&signature.into_bytes())
        );
        Ok(Self {
            token,
            company_id,
            expires_at,
        })
    }
}

impl PortalTokenClaim {
    /// `None`: it can't be a token of ours.
    pub(crate) fn parse(token: &str) -> Option<Self> {
        let parts: Vec<&str> = token.strip_prefix("tbp_")?.split('_').collect();
        let [key_id, company_id, expires, signature] = parts[..] else {
            return None;
        };
        Some(Self {
            key_id: Uuid::try_parse(key_id).ok()?,
            company_id: Uuid::try_parse(company_id).ok()?,
            expires: expires.parse().ok()?,
            signature: unhex(signature)?,
        })
    }

    /// Whether that key has signed it, may do so, and its time isn't over.
    pub(crate) fn is_genuine(&self, key: &LiveApiKey, now: OffsetDateTime) -> bool {
        let signing = signing(
            &key.secret_sha256,
            self.key_id,
            self.company_id,
            self.expires,
        );
        let last = (now + CLOCKS_APART).unix_timestamp() + VALID_MAX;
        let is_signed = signing.verify_slice(&self.signature).is_ok();
        let sees = key.key.company_id.is_none_or(|own| own == self.company_id);
        is_signed && sees && self.expires > now.unix_timestamp() && self.expires <= last
    }
}

fn signing(secret: &[u8], key_id: Uuid, company_id: Uuid, expires: i64) -> Hmac<Sha256> {
    // An HMAC takes a key of any length.
    let mut signing = Hmac::<Sha256>::new_from_slice(secret).expect("any length will do");
    signing.update(WHAT.as_bytes());
    signing.update(key_id.as_bytes());
    signing.update(company_id.as_bytes());
    signing.update(&expires.to_be_bytes());
    signing
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ApiKey;

    fn key(company_id: Option<Uuid>) -> LiveApiKey {
        LiveApiKey {
            key: ApiKey {
                id: Uuid::from_u128(7),
                name: "shop".to_owned(),
                scopes: vec!["operate".to_owned()],
                company_id,
                created_at: OffsetDateTime::UNIX_EPOCH,
                last_used_at: None,
                revoked_at: None,
            },
            secret_sha256: vec![9; 32],
        }
    }

    #[test]
    fn a_token_is_good_for_its_company_its_key_and_its_time() {
        let (company, now) = (Uuid::from_u128(1), OffsetDateTime::now_utc());
        let issued = PortalToken::issue(&key(None), company, 60).unwrap();
        let claim = PortalTokenClaim::parse(&issued.token).unwrap();
        assert_eq!(claim.company_id, company);
        assert!(claim.is_genuine(&key(None), now));
        assert!(claim.is_genuine(&key(Some(company)), now));
        assert!(!claim.is_genuine(&key(Some(Uuid::from_u128(2))), now));
        assert!(!claim.is_genuine(&key(None), now + Duration::seconds(61)));
        let other = LiveApiKey {
            secret_sha256: vec![8; 32],
            ..key(None)
        };
        assert!(!claim.is_genuine(&other, now));
        for forged in [
            PortalTokenClaim {
                company_id: Uuid::from_u128(2),
                ..claim
            },
            PortalTokenClaim {
                expires: claim.expires + 1,
                ..claim
            },
        ] {
            assert!(!forged.is_genuine(&key(None), now));
        }
        for seconds in [0, -1, VALID_MAX + 1, i64::MAX] {
            assert!(PortalToken::issue(&key(None), company, seconds).is_err());
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_panic() {
        let id = "0123456789abcdef0123456789abcdef";
        for token in [
            "",
            "tbp_",
            &format!("tbp_{id}_{id}_1_{}", "ü".repeat(32)),
            "tbp_a_b_c_d",
        ] {
            assert_eq!(PortalTokenClaim::parse(token), None, "{token}");
        }
    }
}
