//! The examples, as far as that can be told without an API server: that they are read as what they are meant to be, and
//! that every kind has some.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use umbra_crds::{
    DeviceGrant, ImagingNode, ImagingOperation, MasterVolume, SetGroup, VolumeSet, definitions, validate,
};

fn examples(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(folder);
    let files =
        fs::read_dir(&folder).expect("the folder of examples").map(|entry| entry.expect("an example").path());
    files.map(|path| (path.clone(), fs::read_to_string(path).expect("an example"))).collect()
}

fn decode<T: DeserializeOwned>(path: &Path, text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn kind_of(path: &Path, text: &str) -> String {
    decode::<Value>(path, text)["kind"].as_str().expect("a kind").to_owned()
}

#[test]
fn valid_examples_are_read_and_have_no_problems() {
    for (path, text) in examples("valid") {
        let problems = match kind_of(&path, &text).as_str() {
            "MasterVolume" => {
                decode::<MasterVolume>(&path, &text);
                Vec::new()
            }
            "VolumeSet" => validate::volume_set(&decode::<VolumeSet>(&path, &text).spec),
            "SetGroup" => validate::set_group(&decode::<SetGroup>(&path, &text).spec),
            "ImagingOperation" => validate::imaging_operation(&decode::<ImagingOperation>(&path, &text).spec),
            "DeviceGrant" => validate::device_grant(&decode::<DeviceGrant>(&path, &text).spec),
            "ImagingNode" => {
                decode::<ImagingNode>(&path, &text);
                Vec::new()
            }
            other => panic!("{}: no kind {other}", path.display()),
        };
        assert_eq!(problems, [], "{}", path.display());
    }
}

#[test]
fn every_kind_has_examples_of_both_sorts() {
    for folder in ["valid", "invalid"] {
        let kinds: Vec<String> = examples(folder).iter().map(|(path, text)| kind_of(path, text)).collect();
        for definition in definitions() {
            assert!(kinds.iter().any(|kind| kind == definition.kind()), "no {folder} {}", definition.kind());
        }
    }
}
