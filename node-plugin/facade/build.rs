//! Generates the wire types and the descriptors that server reflection hands out.

use std::env;
use std::fs;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders = ["proto", "../platform/proto"];
    folders.iter().for_each(|folder| println!("cargo::rerun-if-changed={folder}"));
    let descriptors = protox::compile(["umbra/facade/v1alpha1/facade.proto"], folders)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("facade.bin"), descriptors.encode_to_vec())?;
    // What both APIs speak of is one set of types.
    tonic_prost_build::configure()
        .extern_path(".umbra.platform.v1alpha1", "::umbra_platform::wire::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
