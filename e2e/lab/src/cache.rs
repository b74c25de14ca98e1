//! Where everything downloaded or built is kept: one folder per recipe, made once, never changed.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xxhash_rust::xxh3::xxh3_64;

/// The folder of everything the project keeps outside its checkout: `umbra` in the user's cache folder.
///
/// # Errors
/// Where neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn root() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set: no place for the cache")?.join("umbra"))
}

/// A key for a recipe: what goes into a thing decides its name, so a changed recipe never meets an old result.
#[must_use]
pub fn key(recipe: &[&str]) -> String {
    format!("{:016x}", xxh3_64(recipe.join("\0").as_bytes()))
}

/// The folder `lab/<name>-<key of recipe>`, which `build` fills the first time.
///
/// A build that fails or is killed leaves nothing behind that a later run could take for complete, and of two
/// processes one builds and the other waits.
///
/// # Errors
/// Those of `build` and of the file system.
pub fn entry(name: &str, recipe: &[&str], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let lab = root()?.join("lab");
    let entry = lab.join(format!("{name}-{}", key(recipe)));
    if entry.is_dir() {
        return Ok(entry);
    }
    fs::create_dir_all(&lab).with_context(|| lab.display().to_string())?;
    let lock = lock(&entry.with_added_extension("lock"))?;
    if !entry.is_dir() {
        let scratch = entry.with_added_extension("building");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir(&scratch)?;
        build(&scratch)?;
        fs::rename(&scratch, &entry)?;
    }
    drop(lock);
    Ok(entry)
}

/// Takes the lock file at `path` and waits for it; dropping the file lets go.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_recipes_apart_and_stay_the_same() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        assert_ne!(key(&["a", "b"]), key(&["b", "a"]));
    }
}
