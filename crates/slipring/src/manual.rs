//! The manual page and the completions of shells, made of the flags themselves, for the packages: into `target/package`.

use std::error::Error;
use std::fs;

use clap::CommandFactory as _;
use clap_complete::Shell;
use testkit::servers::target_folder;

use crate::cli::Cli;

#[test]
fn manual_and_completions_name_every_flag() -> Result<(), Box<dyn Error>> {
    let folder = target_folder().join("package");
    fs::create_dir_all(&folder)?;
    let mut command = Cli::command();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    fs::write(folder.join("slipring.1"), &page)?;
    let mut texts = vec![String::from_utf8(page)?.replace("\\-", "-")];
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "slipring", &mut script);
        fs::write(folder.join(format!("slipring.{shell}")), &script)?;
        texts.push(String::from_utf8(script)?);
    }
    for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
        for text in &texts {
            assert!(text.contains(flag), "--{flag}");
        }
    }
    Ok(())
}
