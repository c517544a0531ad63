//! The proxy on the way to the API server, as kubectl finds it: `proxy-url` of the kubeconfig, else `HTTPS_PROXY`, unless the server
//! is among `NO_PROXY`. kube reads these variables with a kubeconfig only, not in a pod, and it looks for the proxy itself
//! among `NO_PROXY`.

use std::net::IpAddr;

use axum::http::Uri;
use ipnet::IpNet;
use kube::Config;
use kube::config::Kubeconfig;

/// Where a proxy is named, and what is named there is none. It may have a password in it, so it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} names no proxy for the Kubernetes API: write http://host:port, https://host:port or socks5://host:port, with \
     user:password@ in front of the host if it asks for that (in a password @ is %40, : is %3A, / is %2F)"
)]
pub struct NoSuchProxy(&'static str);

/// Variables of the environment.
#[derive(Clone, Debug, Default)]
struct Variables {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: String,
}

/// The configuration with the proxy that is meant for its API server.
///
/// # Errors
/// When what names a proxy cannot be understood.
pub fn with_proxy(mut config: Config) -> Result<Config, NoSuchProxy> {
    let server = &config.cluster_url;
    let kubeconfig = Kubeconfig::read().ok();
    config.proxy_url = match kubeconfig.and_then(|it| of_kubeconfig(&it, server)) {
        Some(named) => Some(parsed(&named, "proxy-url in the kubeconfig")?),
        None => Variables::of_this_process().proxy_for(server)?,
    };
    Ok(config)
}

/// `proxy-url` of the cluster of the current context, if that is the one with this server.
fn of_kubeconfig(kubeconfig: &Kubeconfig, server: &Uri) -> Option<String> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|it| it.name == *current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|it| it.name == *name)?;
    let cluster = cluster.cluster.as_ref()?;
    let is_meant = cluster.server.as_ref()?.parse::<Uri>().ok().as_ref() == Some(server);
    let named = cluster.proxy_url.clone().filter(|_| is_meant);
    named.filter(|named| !named.trim().is_empty())
}

fn parsed(text: &str, source: &'static str) -> Result<Uri, NoSuchProxy> {
    let text = text.trim();
    let uri = match text.contains("://") {
        true => text.parse::<Uri>(),
        false => format!("http://{text}").parse(),
    };
    let is_proxy = |uri: &Uri| {
        let known = matches!(uri.scheme_str(), Some("http" | "https" | "socks5"));
        known && uri.host().is_some_and(|host| !host.is_empty())
    };
    uri.ok().filter(is_proxy).ok_or(NoSuchProxy(source))
}

impl Variables {
    fn of_this_process() -> Self {
        let set = |name: &str| std::env::var(name).ok();
        let either = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(set);
            values.find(|value| !value.trim().is_empty())
        };
        Self {
            http_proxy: either(["HTTP_PROXY", "http_proxy"]),
            https_proxy: either(["HTTPS_PROXY", "https_proxy"]),
            no_proxy: either(["NO_PROXY", "no_proxy"]).unwrap_or_default(),
        }
    }

    fn proxy_for(&self, server: &Uri) -> Result<Option<Uri>, NoSuchProxy> {
        let (named, source, port) = match server.scheme_str() {
            Some("http") => (&self.http_proxy, "HTTP_PROXY", 80),
            _ => (&self.https_proxy, "HTTPS_PROXY", 443),
        };
        let host = server.host().unwrap_or_default().to_lowercase();
        let host = host.trim_matches(['[', ']']);
        match named {
            Some(named) if !is_direct(host, server.port_u16().unwrap_or(port), &self.no_proxy) => {
                parsed(named, source).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Whether a server is reached without a proxy, by the rules of Go's `httpproxy`, which kubectl has. Other programs read
/// `NO_PROXY` otherwise: crates for it know no ports, and take `.example.com` for `example.com` too.
fn is_direct(host: &str, port: u16, no_proxy: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|it| it.is_loopback()) {
        return true;
    }
    let entries = no_proxy.split(',').map(|it| it.trim().to_lowercase());
    entries.filter(|it| !it.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Ok(network) = entry.parse::<IpNet>() {
            return address.is_some_and(|it| network.contains(&it));
        }
        let (name, wanted) = name_and_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        if let Ok(ip) = name.parse::<IpAddr>() {
            return address == Some(ip);
        }
        let name = name.strip_prefix('*').unwrap_or(name);
        let below = host.strip_suffix(name);
        match name.starts_with('.') {
            true => below.is_some(),
            false => below.is_some_and(|below| below.is_empty() || below.ends_with('.')),
        }
    })
}

/// `name`, `name:port`, `address`, `address:port` or `[address]:port`.
fn name_and_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (entry, None),
    };
    match port {
        Some(port) => (name.trim_matches(['[', ']']), Some(port)),
        None => (entry.trim_matches(['[', ']']), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(no_proxy: &str) -> Variables {
        Variables {
            http_proxy: Some("http://plain:1".to_owned()),
            https_proxy: Some("proxy.example.com:3128".to_owned()),
            no_proxy: no_proxy.to_owned(),
        }
    }

    fn is_by_proxy(server: &str, no_proxy: &str) -> bool {
        let server = server.parse().unwrap();
        variables(no_proxy).proxy_for(&server).unwrap().is_some()
    }

    #[test]
    fn no_proxy_means_what_it_means_to_kubectl() {
        for (server, direct) in [
            ("https://k8s.example.com", "k8s.example.com"),
            ("https://K8s.example.com", "k8s.Example.com"),
            ("https://k8s.example.com", "example.com"),
            ("https://k8s.example.com", ".example.com"),
            ("https://k8s.example.com", "*.example.com"),
            ("https://k8s.example.com", "a, ,example.com,"),
            ("https://k8s.example.com", "*"),
            ("https://k8s.example.com", "example.com:443"),
            ("https://k8s.example.com:6443", ".example.com:6443"),
            ("https://10.0.0.1", "10.0.0.1"),
            ("https://10.0.0.1", "10.0.0.1:443"),
            ("https://10.0.0.1", "10.0.0.0/8"),
            ("https://[fd00::1]", "fd00::1"),
            ("https://[fd00::1]", "[fd00::1]"),
            ("https://[fd00::1]:6443", "[fd00::1]:6443"),
            ("https://[fd00::1]", "fd00::/8"),
            ("https://localhost:6443", ""),
            ("https://127.0.0.1:6443", ""),
            ("https://[::1]:6443", ""),
        ] {
            assert!(!is_by_proxy(server, direct), "{server} {direct}");
        }
        for (server, other) in [
            ("https://k8s.example.com", ""),
            ("https://k8s.example.com", "other.example.com"),
            ("https://k8s.example.com", "s.example.com"),
            ("https://example.com", ".example.com"),
            ("https://example.com", "*.example.com"),
            ("https://k8s.example.com:6443", "example.com:443"),
            ("https://k8s.example.com", "proxy.example.com"),
            ("https://10.0.0.1:6443", "10.0.0.1:443"),
            ("https://10.0.0.1", "10.0.0.0/32"),
            ("https://11.0.0.1", "10.0.0.0/8,fd00::/8"),
            ("https://[fd00::1]", "fd00::2"),
        ] {
            assert!(is_by_proxy(server, other), "{server} {other}");
        }
    }

    #[test]
    fn the_scheme_of_the_server_says_which_variable_counts() {
        for (server, proxy) in [
            ("https://k8s", "http://proxy.example.com:3128/"),
            ("http://k8s", "http://plain:1/"),
        ] {
            let found = variables("").proxy_for(&server.parse().unwrap());
            assert_eq!(found, Ok(Some(proxy.parse().unwrap())));
        }
        let none = Variables::default().proxy_for(&"https://k8s".parse().unwrap());
        assert_eq!(none, Ok(None));
    }

    #[test]
    fn what_is_no_proxy_is_told_by_its_name_and_never_repeated() {
        for text in ["ftp://u:s3cret@h", "://s3cret", "u:s3c ret@h", "http://"] {
            let said = parsed(text, "HTTPS_PROXY").unwrap_err().to_string();
            assert!(said.starts_with("HTTPS_PROXY names no proxy"), "{said}");
            assert!(!said.contains("s3c"), "{said}");
        }
        for text in ["h", "h:1", "u:p@h:1", "https://h", " socks5://h:1080 "] {
            parsed(text, "HTTPS_PROXY").unwrap();
        }
    }

    #[test]
    fn a_kubeconfig_names_the_proxy_of_its_current_cluster() {
        let kubeconfig = |current: &str| {
            let cluster = |name: &str, proxy: &str| serde_json::json!({"name": name, "cluster": {"server": format!("https://{name}"), "proxy-url": proxy}});
            let context = |name: &str| serde_json::json!({"name": name, "context": {"cluster": name, "user": "u"}});
            serde_json::from_value::<Kubeconfig>(serde_json::json!({
                "current-context": current,
                "contexts": [context("one"), context("two"), context("three")],
                "clusters": [cluster("one", "http://a:1"), cluster("two", "http://b:1"), cluster("three", "")],
            }))
            .unwrap()
        };
        let found =
            |current, server: &str| of_kubeconfig(&kubeconfig(current), &server.parse().unwrap());
        assert_eq!(found("two", "https://two").as_deref(), Some("http://b:1"));
        assert_eq!(found("three", "https://three"), None);
        assert_eq!(found("two", "https://in-cluster"), None, "not of this file");
    }
}
