use super::*;
use k8s_openapi::ByteString;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, KeyPair, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519,
};
use serde_json::json;

const NODE: &str = "spiffe://umbra/prod/node/a";
const UID: &str = "00000000-0000-4000-8000-000000000001";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn params(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params
}

fn signed(params: &CertificateParams) -> String {
    let key = KeyPair::generate().expect("a key");
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

/// What umbra-node on node `a` asks with.
fn good() -> CertificateSigningRequestSpec {
    let extra = [(NODE_NAME, "a"), (POD_NAME, "umbra-node-x"), (POD_UID, UID)];
    CertificateSigningRequestSpec {
        request: ByteString(signed(&params(&[uri(NODE)])).into_bytes()),
        usages: Some(USAGES.map(str::to_owned).to_vec()),
        username: Some("system:serviceaccount:umbra-node:umbra-node".into()),
        extra: Some(extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into()),
        ..CertificateSigningRequestSpec::default()
    }
}

fn with(pem: impl Into<Vec<u8>>) -> CertificateSigningRequestSpec {
    CertificateSigningRequestSpec { request: ByteString(pem.into()), ..good() }
}

fn knowing(what: &str, values: &[&str]) -> CertificateSigningRequestSpec {
    let mut spec = good();
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    spec.extra.get_or_insert_default().insert(what.to_owned(), values);
    spec
}

fn pod(name: &str, uid: &str, node: Option<&str>, phase: &str) -> Pod {
    let pod = json!({"metadata": {"name": name, "namespace": "umbra-node", "uid": uid},
        "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}});
    serde_json::from_value(pod).expect("a pod")
}

fn judged(spec: &CertificateSigningRequestSpec, pod: Option<&Pod>) -> Result<Asked, Refusal> {
    let cluster = "prod".parse().expect("a name");
    judge(spec, Rules { cluster: &cluster, node_namespace: "umbra-node" }, pod)
}

/// With the pod that there should be.
fn reason(spec: &CertificateSigningRequestSpec) -> &'static str {
    match judged(spec, Some(&pod("umbra-node-x", UID, Some("a"), "Running"))) {
        Ok(_) => "",
        Err(refusal) => refusal.reason(),
    }
}

#[test]
fn a_node_is_certified_for_at_most_a_month() {
    let lives = pod("umbra-node-x", UID, Some("a"), "Running");
    let asked = judged(&good(), Some(&lives)).expect("it fits");
    assert_eq!((asked.identity.to_string().as_str(), asked.life), (NODE, LIFE_MAX));
    let life = |seconds: i32| {
        let spec = CertificateSigningRequestSpec { expiration_seconds: Some(seconds), ..good() };
        judged(&spec, Some(&lives)).expect("it fits").life
    };
    assert_eq!(life(86_400), Duration::from_secs(86_400));
    assert_eq!(life(i32::MAX), LIFE_MAX);
    assert_eq!((life(1), life(-1)), (LIFE_MIN, LIFE_MAX));
    // A pod that begins has no phase yet, or waits.
    for phase in ["", "Pending"] {
        judged(&good(), Some(&pod("umbra-node-x", UID, Some("a"), phase))).expect("it lives");
    }
}

#[test]
fn names_are_one_uri_of_a_node_of_this_cluster() {
    let dns = SanType::DnsName("a.example.com".try_into().expect("ASCII"));
    let address = SanType::IpAddress([192, 0, 2, 1].into());
    for (names, expected) in [
        (vec![], "NotOneName"),
        (vec![dns.clone()], "NotOneName"),
        (vec![address.clone()], "NotOneName"),
        (vec![uri(NODE), dns], "NotOneName"),
        (vec![uri(NODE), address], "NotOneName"),
        (vec![uri(NODE), uri("spiffe://umbra/prod/operator")], "NotOneName"),
        (vec![uri(NODE), uri(NODE)], "NotOneName"),
        (vec![uri("spiffe://umbra/prod/operator")], "NotANode"),
        (vec![uri("spiffe://umbra/prod/console")], "NotANode"),
        (vec![uri("spiffe://umbra/other/node/a")], "NotANode"),
        (vec![uri("spiffe://umbra/prod/node/a/b")], "NotANode"),
        (vec![uri("https://umbra/prod/node/a")], "NotANode"),
        (vec![uri("spiffe://umbra/prod/node/b")], "OtherNode"),
        (vec![uri("spiffe://umbra/prod/node/A")], "OtherNode"),
        (vec![uri(NODE)], ""),
    ] {
        assert_eq!(reason(&with(signed(&params(&names)))), expected, "{names:?}");
    }
}

/// The extension that carries names, by hand: twice, and with what a reader may stumble over.
#[test]
fn forged_extensions_are_refused() {
    let extension = |content: Vec<u8>| CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
    let general = |tag: u8, text: &str| {
        let length = u8::try_from(text.len()).expect("short");
        let mut der = vec![0x30, length + 2, tag, length];
        der.extend_from_slice(text.as_bytes());
        der
    };
    let mut twice = params(&[uri("spiffe://umbra/prod/operator")]);
    twice.custom_extensions.push(extension(general(0x86, NODE)));
    assert_eq!(reason(&with(signed(&twice))), "NotOneName");
    for (content, expected) in [
        (general(0x86, NODE), ""),
        (general(0x86, "spiffe://umbra/prod/node/a\0"), "NotANode"),
        (general(0x86, "spiffe://umbra/prod/node/\u{e4}"), "NotReadable"),
        (general(0x82, NODE), "NotOneName"),
        (general(0x88, NODE), "NotReadable"),
        (vec![0x30, 0], "NotOneName"),
        (vec![], "NotReadable"),
        (vec![0x30, 0x7f, 0x86], "NotReadable"),
    ] {
        let mut forged = params(&[]);
        forged.custom_extensions.push(extension(content.clone()));
        assert_eq!(reason(&with(signed(&forged))), expected, "{content:x?}");
    }
    let mut unknown = params(&[uri(NODE)]);
    unknown.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
    assert_eq!(reason(&with(signed(&unknown))), "NotReadable");
}

#[test]
fn a_request_to_be_an_authority_is_refused() {
    let authority = |change: fn(&mut CertificateParams)| {
        let mut params = params(&[uri(NODE)]);
        change(&mut params);
        reason(&with(signed(&params)))
    };
    assert_eq!(
        authority(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        "AuthorityAsked"
    );
    assert_eq!(authority(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)), "AuthorityAsked");
    assert_eq!(authority(|params| params.key_usages.push(KeyUsagePurpose::CrlSign)), "AuthorityAsked");
    assert_eq!(authority(|params| params.is_ca = IsCa::ExplicitNoCa), "");
    // What it calls itself elsewhere goes nowhere.
    assert_eq!(authority(|params| params.distinguished_name.push(DnType::CommonName, "operator")), "");
}

#[test]
fn keys_are_of_one_kind_and_the_request_is_signed_with_its_own() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let request = params(&[uri(NODE)]).serialize_request(&key).expect("a request").pem().expect("PEM");
        assert_eq!(reason(&with(request)), "KeyNotTaken");
    }
    // The signature of another request under the same names.
    let (one, two) = (der(&signed(&params(&[uri(NODE)]))), der(&signed(&params(&[uri(NODE)]))));
    let mut mixed = one;
    mixed.truncate(mixed.len() - 40);
    mixed.extend_from_slice(&two[two.len() - 40..]);
    assert_eq!(reason(&with(pem(&mixed))), "NotReadable");
}

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM").1.contents
}

fn pem(der: &[u8]) -> String {
    use std::fmt::Write as _;
    // Base64 by hand: nobody else here writes any.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits =
            three.iter().chain(&[0, 0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for at in 0..4 {
            let letter = char::from(LETTERS[bits >> (18 - 6 * at) & 63]);
            text.push(if at > three.len() { '=' } else { letter });
        }
    }
    let mut lines = String::new();
    for line in text.as_bytes().chunks(64) {
        writeln!(lines, "{}", std::str::from_utf8(line).expect("ASCII")).expect("memory");
    }
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn usages_are_those_of_the_facade() {
    let with = |usages: Option<&[&str]>| {
        let usages = usages.map(|usages| usages.iter().map(|usage| (*usage).to_owned()).collect());
        reason(&CertificateSigningRequestSpec { usages, ..good() })
    };
    assert_eq!(with(Some(&["server auth", "digital signature", "client auth"])), "");
    for bad in [
        None,
        Some(&[][..]),
        Some(&["server auth"][..]),
        Some(&["server auth", "client auth", "digital signature", "cert sign"][..]),
    ] {
        assert_eq!(with(bad), "OtherUsages", "{bad:?}");
    }
}

#[test]
fn only_a_pod_of_umbra_node_asks_and_only_for_its_own_node() {
    for username in [
        None,
        Some("admin"),
        Some("system:serviceaccount:default:umbra-node"),
        Some("system:serviceaccount:umbra-node:default"),
        Some("system:serviceaccount:umbra-node:umbra-node2"),
        Some("system:node:a"),
    ] {
        let spec = CertificateSigningRequestSpec { username: username.map(str::to_owned), ..good() };
        assert_eq!(reason(&spec), "OtherAccount", "{username:?}");
    }
    for what in [NODE_NAME, POD_NAME, POD_UID] {
        for values in [&[][..], &[""], &["a", "b"], &["a", "a"]] {
            assert_eq!(reason(&knowing(what, values)), "NotFromAPod", "{what} {values:?}");
        }
    }
    assert_eq!(reason(&CertificateSigningRequestSpec { extra: None, ..good() }), "NotFromAPod");
    assert_eq!(reason(&knowing(NODE_NAME, &["b"])), "OtherNode");
    assert_eq!(reason(&knowing(POD_UID, &["other"])), "NoSuchPod");
    assert_eq!(reason(&knowing(POD_NAME, &["umbra-node-y"])), "NoSuchPod");

    for (found, named) in [
        (None, "there is none"),
        (Some(pod("umbra-node-y", UID, Some("a"), "Running")), "there is none"),
        (Some(pod("umbra-node-x", "other", Some("a"), "Running")), "another has its name"),
        (Some(pod("umbra-node-x", UID, Some("b"), "Running")), "it runs on b"),
        (Some(pod("umbra-node-x", UID, None, "Pending")), "no node"),
        (Some(pod("umbra-node-x", UID, Some("a"), "Failed")), "ended"),
        (Some(pod("umbra-node-x", UID, Some("a"), "Succeeded")), "ended"),
    ] {
        let refused = judged(&good(), found.as_ref()).expect_err(named);
        assert!(refused.reason() == "NoSuchPod" && refused.to_string().contains(named), "{refused}");
    }
}

#[test]
fn the_witness_is_one_pod_of_the_namespace_of_nodes() {
    let cluster = "prod".parse().expect("a name");
    let rules = Rules { cluster: &cluster, node_namespace: "umbra-node" };
    assert_eq!(witness(&good(), rules), Some(Key::namespaced("umbra-node", "umbra-node-x")));
    for name in ["..", "../x", "a/b", "a?b", ""] {
        assert_eq!(witness(&knowing(POD_NAME, &[name]), rules), None, "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(reason(&with(bytes.clone())), "NotReadable");
        prop_assert_eq!(reason(&with(pem(&bytes))), "NotReadable");
    }

    /// A request that was good, with some bytes changed: it is refused, or it asks for what it asked for before.
    #[test]
    fn a_request_that_was_changed_on_its_way_is_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let before = der(&signed(&params(&[uri(NODE)])));
        let mut after = before.clone();
        for (at, byte) in &changes {
            *at.get_mut(&mut after) = *byte;
        }
        let lives = pod("umbra-node-x", UID, Some("a"), "Running");
        if let Ok(asked) = judged(&with(pem(&after)), Some(&lives)) {
            prop_assert_eq!(Ok(asked), judged(&with(pem(&before)), Some(&lives)), "{:?}", changes);
        }
    }

    #[test]
    fn a_request_of_any_length_is_judged(length in 0..40_000_usize) {
        prop_assert_eq!(reason(&with(vec![b'-'; length])), "NotReadable");
    }
}
