//! Every method that is served, with its permission.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::Request;
use tidegauge_core::Permission;

use crate::{Mount, StartError};

/// The only method that needs no credential.
const PUBLIC: &str = "/grpc.health.v1.Health/Check";

/// A served method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Its exact path, `/package.Service/Method`.
    pub(crate) path: Arc<str>,
    /// What it needs.
    pub(crate) permission: Permission,
}

/// The served methods by path.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    by_path: HashMap<Arc<str>, Method>,
}

impl Methods {
    /// Compares what the mounts declare with what their contracts have (`contracts`: methods by service).
    pub(crate) fn declared(mounts: &[Mount], contracts: &BTreeMap<String, Vec<String>>) -> Result<Self, StartError> {
        let mut by_path = HashMap::new();
        for mount in mounts {
            let service = mount.service;
            let unknown = || StartError::UnknownService { service: service.to_owned() };
            let contract = contracts.get(service).ok_or_else(unknown)?;
            if mounts.iter().filter(|other| other.service == service).count() > 1 {
                return Err(StartError::MountedTwice { service: service.to_owned() });
            }
            for (name, permission) in mount.permissions {
                let method = format!("/{service}/{name}");
                if !contract.iter().any(|known| known == name) {
                    return Err(StartError::UnknownMethod { method });
                }
                if *permission == Permission::Public && method != PUBLIC {
                    return Err(StartError::PublicMethod { method });
                }
                let path: Arc<str> = method.as_str().into();
                let declared = Method { path: Arc::clone(&path), permission: *permission };
                if by_path.insert(path, declared).is_some() {
                    return Err(StartError::DeclaredTwice { method });
                }
            }
            for name in contract {
                let method = format!("/{service}/{name}");
                if !by_path.contains_key(method.as_str()) {
                    return Err(StartError::UndeclaredMethod { method });
                }
            }
        }
        Ok(Self { by_path })
    }

    /// The method that a request is for. The path must be the declared one byte for byte, without a query, and the
    /// verb POST: what is not exactly a declared method reaches no handler.
    pub(crate) fn find<B>(&self, request: &Request<B>) -> Option<&Method> {
        if request.method() != http::Method::POST {
            return None;
        }
        self.by_path.get(request.uri().path_and_query()?.as_str())
    }
}
