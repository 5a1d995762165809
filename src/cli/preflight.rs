//! What can be refused before the data folder is touched: a genesis file, an address in use.

use crate::config::{
    chain_spec::{ChainSpec, GenesisError},
    overlay::Effective,
};
use crate::node::NodeError;
use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// Refuses, with the place of the setting, what would be refused half-way through the start.
///
/// # Errors
/// Where the genesis file cannot start a chain, or an address cannot be listened on.
pub fn check(effective: &Effective) -> Result<(), NodeError> {
    let config = &effective.config;
    if config.chain.genesis_file.is_some() {
        let spec = ChainSpec::new(&config.chain, &[]);
        spec.map_err(|error| match error {
            GenesisError::Unreadable { .. } => {
                let key = "chain.genesis_file";
                NodeError(format!("{}: {key}: {error}", origin(effective, key)))
            }
            error => NodeError::of(error),
        })?;
    }
    listen(effective, ("rpc.address", "--rpc (basalt dev)"), Some(config.rpc.address))?;
    listen(effective, ("metrics.address", "--metrics (basalt dev)"), config.metrics)
}

/// Listens for a moment. The servers listen for good after the chain is taken up, which may take
/// long.
fn listen(
    effective: &Effective,
    (key, flag): (&str, &str),
    address: Option<SocketAddr>,
) -> Result<(), NodeError> {
    let Some(address) = address else { return Ok(()) };
    let Err(error) = TcpListener::bind(address) else { return Ok(()) };
    let (what, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "is in use by another program".to_owned(),
            format!("stop that program, or choose another port with {flag} or {key}"),
        ),
        io::ErrorKind::AddrNotAvailable => (
            "is no address of this machine".to_owned(),
            format!("choose another with {flag} or {key}, such as 127.0.0.1:{}", address.port()),
        ),
        _ => (
            format!("cannot be listened on ({error})"),
            format!("choose another with {flag} or {key}"),
        ),
    };
    let origin = origin(effective, key);
    Err(NodeError(format!("{origin}: {key} = \"{address}\" {what}; {remedy}")))
}

fn origin(effective: &Effective, key: &str) -> String {
    let mut settings = effective.settings.iter();
    let setting = settings.find(|setting| setting.key == key);
    setting.map_or_else(|| "default".to_owned(), |setting| setting.origin.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overlay::{Sources, effective};

    #[test]
    fn a_port_in_use_is_refused_with_file_line_and_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = format!("[metrics]\naddress = \"off\"\n[rpc]\naddress = \"{address}\"\n");
        let sources = Sources {
            file: Some(("a.toml".to_owned(), text)),
            environment: vec![("HOME".to_owned(), "/h".to_owned())],
            ..Sources::default()
        };
        let effective = effective(&sources).unwrap();
        let refusal = check(&effective).unwrap_err().to_string();
        let wanted = format!("a.toml:4: rpc.address = \"{address}\" is in use");
        assert!(refusal.starts_with(&wanted), "{refusal}");
        assert!(refusal.contains("--rpc"), "{refusal}");
        drop(taken);
        check(&effective).unwrap();
    }
}
