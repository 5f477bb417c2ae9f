//! The descriptors of everything the server can serve.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The contracts of the platform, of Arrow Flight, of health and of reflection (v1 and v1alpha), each file once.
pub fn merged_descriptor_set() -> FileDescriptorSet {
    let mut seen = BTreeSet::new();
    let mut merged = FileDescriptorSet::default();
    for encoded in encoded_sets() {
        let set =
            FileDescriptorSet::decode(encoded).expect("descriptor sets are compiled in and were decoded by tests");
        merged.file.extend(set.file.into_iter().filter(|file| seen.insert(file.name().to_owned())));
    }
    merged
}

/// The same as encoded sets; a file may stand in several.
pub(crate) fn encoded_sets() -> [&'static [u8]; 4] {
    [
        tidegauge_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]
}

/// The methods of every service, by the service's full name.
pub(crate) fn methods() -> BTreeMap<String, Vec<String>> {
    let mut services = BTreeMap::new();
    for file in merged_descriptor_set().file {
        let package = file.package().to_owned();
        for service in file.service {
            let name =
                if package.is_empty() { service.name().to_owned() } else { format!("{package}.{}", service.name()) };
            services.insert(name, service.method.iter().map(|method| method.name().to_owned()).collect());
        }
    }
    services
}
