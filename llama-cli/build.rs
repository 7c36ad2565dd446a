//! What is known when the program is built: the commit, and whether there is TLS for the architecture.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(tls)");
    // As in the manifest.
    if matches!(env::var("CARGO_CFG_TARGET_ARCH").as_deref(), Ok("x86_64" | "aarch64")) {
        println!("cargo:rustc-cfg=tls");
    }
    println!("cargo:rustc-env=LLAMA_COMMIT={}", commit().unwrap_or_default());
    println!("cargo:rustc-env=LLAMA_TARGET={}", env::var("TARGET").unwrap_or_default());
}

/// The commit of the checkout, or of the package that cargo made of one; of a tarball nobody knows.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    // A checkout of something that contains our tarball is not ours.
    if Path::new("../.git").exists()
        && let Some(directory) = git(&["rev-parse", "--absolute-git-dir"])
    {
        // Grows with every commit, checkout and merge.
        println!("cargo:rerun-if-changed={directory}/logs/HEAD");
        println!("cargo:rerun-if-changed={directory}/HEAD");
        return git(&["rev-parse", "--short=9", "HEAD"]);
    }
    let package = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = package.split_once("\"sha1\"")?;
    rest.split('"').find(|text| text.len() == 40).map(|sha1| sha1[..9].to_owned())
}
