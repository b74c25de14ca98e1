//! Generates the wire types and the descriptors that server reflection hands out.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("platform.bin"))
        .compile_protos(&["proto/umbra/platform/v1alpha1/platform.proto"], &["proto"])?;
    Ok(())
}
