//! Links the libraries that uWebSockets needs; its package leaves that to the program.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_UWS").is_some() {
        for library in ["stdc++", "uv", "ssl", "crypto", "z"] {
            println!("cargo:rustc-link-lib={library}");
        }
    }
}
