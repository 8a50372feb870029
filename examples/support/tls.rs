//! The options of the examples for TLS. They need `--features tls`:
//!
//! - `--tls CERT KEY`: a certificate chain and its key, in PEM files.
//! - `--dev-tls`: a certificate for this machine that is made in memory. Browsers warn of it; its
//!   fingerprint is printed, so that you can compare.

use std::error::Error;

use tickws::{Server, ServerBuilder};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How an example serves.
pub enum Security {
    Plain,
    #[cfg(feature = "tls")]
    Tls(tickws::Tls),
}

impl Security {
    /// Takes the options out of the arguments of the program, and returns the others.
    pub fn from_args() -> Outcome<(Security, Vec<String>)> {
        let (mut security, mut others) = (Security::Plain, Vec::new());
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--tls" => {
                    let mut file = || args.next().ok_or("--tls needs two files: CERT KEY");
                    security = from_files(&file()?, &file()?)?;
                }
                "--dev-tls" => security = for_this_machine()?,
                _ => others.push(arg),
            }
        }
        Ok((security, others))
    }

    /// Binds the server.
    pub fn bind(self, builder: ServerBuilder, addr: &str) -> Outcome<Server> {
        match self {
            Security::Plain => Ok(builder.bind(addr)?),
            #[cfg(feature = "tls")]
            Security::Tls(tls) => Ok(builder.tls(tls).bind_tls(addr)?),
        }
    }

    /// The end of the schemes: `http` and `ws`, or `https` and `wss`.
    pub fn s(&self) -> &'static str {
        if matches!(self, Security::Plain) { "" } else { "s" }
    }
}

#[cfg(feature = "tls")]
fn from_files(chain: &str, key: &str) -> Outcome<Security> {
    Ok(Security::Tls(tickws::Tls::from_pem_files(chain, key)?))
}

#[cfg(feature = "tls")]
fn for_this_machine() -> Outcome<Security> {
    use tickws::tls::rustls_0_23::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names)?;
    if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
        let digest = suite.common.hash_provider.hash(made.cert.der());
        let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        println!("certificate for this machine, SHA-256 fingerprint {}", hex.join(":"));
    }
    Ok(Security::Tls(tickws::Tls::from_pem(made.cert.pem(), made.signing_key.serialize_pem())?))
}

#[cfg(not(feature = "tls"))]
fn from_files(_: &str, _: &str) -> Outcome<Security> {
    Err("run the example with --features tls".into())
}

#[cfg(not(feature = "tls"))]
fn for_this_machine() -> Outcome<Security> {
    Err("run the example with --features tls".into())
}
