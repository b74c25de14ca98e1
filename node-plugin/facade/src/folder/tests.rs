use super::*;
use crate::request::SigningRequest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use std::time::Duration;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    Authority::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// What an authority makes of a request; valid up to this year.
fn signed(authority: &Authority, request: &SigningRequest, year: i32) -> String {
    let mut asked = CertificateSigningRequestParams::from_pem(&request.pem).expect("a request");
    asked.params.not_before = date_time_ymd(2020, 1, 1);
    asked.params.not_after = date_time_ymd(year, 1, 1);
    asked.params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    asked.signed_by(authority).expect("a certificate").pem()
}

fn identity(text: &str) -> Identity {
    text.parse().expect("an identity")
}

struct World {
    _directory: tempfile::TempDir,
    path: PathBuf,
    folder: CredentialFolder,
    authority: Authority,
}

fn world() -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/tls");
    let folder = CredentialFolder::open(&path, identity("spiffe://umbra/prod/node/a")).expect("a folder");
    World { _directory: directory, path, folder, authority: authority() }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn what_is_kept_can_be_used_and_is_private() {
    let World { path, folder, authority, _directory } = world();
    let now = SystemTime::now();
    folder.held(now).expect_err("nothing is there");
    assert!(folder.keep_authorities(&authority.pem()).expect("written"), "they are new");
    assert!(!folder.keep_authorities(&authority.pem()).expect("read"), "they are the same");
    let request = SigningRequest::new(folder.identity()).expect("a request");
    let life = folder.keep(&signed(&authority, &request, 4000), &request.key, now).expect("usable");
    assert_eq!(folder.held(now).expect("usable"), life);
    crate::Credentials::of_server(folder.files()).expect("connections can begin with it");
    assert_eq!(mode(&path), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).expect("a folder") {
        let entry = entry.expect("an entry");
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.push(entry.file_name());
    }
    names.sort();
    assert_eq!(names, ["ca.crt", "tls.pem"]);

    // A process that begins anew finds it, whatever a killed one left beside it.
    std::fs::write(path.join("tls.new"), "half").expect("written");
    let again = CredentialFolder::open(&path, folder.identity().clone()).expect("it is there");
    assert_eq!(again.held(now).expect("usable"), life);
    let request = SigningRequest::new(folder.identity()).expect("a request");
    again.keep(&signed(&authority, &request, 4000), &request.key, now).expect("usable");
    assert_eq!(mode(&path.join("tls.pem")), 0o600);
}

#[test]
fn what_cannot_be_used_takes_no_ones_place() {
    let World { folder, authority: own, _directory, .. } = world();
    let now = SystemTime::now();
    let ask = |text: &str| SigningRequest::new(&identity(text)).expect("a request");
    let (good, other) = (ask("spiffe://umbra/prod/node/a"), ask("spiffe://umbra/prod/node/a"));
    let early = folder.keep(&signed(&own, &good, 4000), &good.key, now).expect_err("no authority is known");
    assert!(early.to_string().contains("ca.crt"), "{early}");
    folder.keep_authorities(&own.pem()).expect("written");
    let life = folder.keep(&signed(&own, &good, 4000), &good.key, now).expect("usable");

    let (node_b, operator) = (ask("spiffe://umbra/prod/node/b"), ask("spiffe://umbra/prod/operator"));
    for (certificate, key, why) in [
        (signed(&own, &node_b, 4000), &node_b.key, "not of spiffe://umbra/prod/node/a"),
        (signed(&own, &operator, 4000), &operator.key, "not of spiffe://umbra/prod/node/a"),
        (signed(&own, &other, 2021), &other.key, "xpired"),
        (signed(&authority(), &other, 4000), &other.key, "invalid peer certificate"),
        (signed(&own, &other, 4000), &good.key, "cannot be used"),
        ("no PEM".into(), &good.key, "no certificate"),
        (String::new(), &good.key, "no certificate"),
    ] {
        let refused = folder.keep(&certificate, key, now).expect_err(why).to_string();
        assert!(refused.contains(why), "{refused} has no {why:?}");
        assert_eq!(folder.held(now).expect("the first"), life);
    }

    for bundle in ["", "no PEM"] {
        folder.keep_authorities(bundle).expect_err("no authority");
        assert_eq!(folder.held(now).expect("the first"), life);
    }

    // What serves now does not for ever, nor under other authorities.
    folder.held(life.ends + Duration::from_secs(1)).expect_err("over");
    folder.keep_authorities(&authority().pem()).expect("written");
    folder.held(now).expect_err("nobody vouches for it");
}

#[test]
fn what_is_no_private_folder_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let whose = identity("spiffe://umbra/prod/operator");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("written");
    let refused = CredentialFolder::open(&file, whose.clone()).expect_err("a file").to_string();
    assert!(refused.contains("--tls-dir"), "{refused}");
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    std::fs::create_dir(&real).expect("made");
    std::os::unix::fs::symlink(&real, &link).expect("made");
    CredentialFolder::open(&link, whose.clone()).expect_err("a link");
    std::fs::set_permissions(&real, Permissions::from_mode(0o755)).expect("set");
    CredentialFolder::open(&real, whose).expect("ours");
    assert_eq!(mode(&real), 0o700, "others are kept out");
}
