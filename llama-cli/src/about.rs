//! What the command says about itself: a first help, its version, completions, a manual.

use crate::args::{Cli, Completions};
use crate::failure::Failure;
use crate::output::print;
use clap::CommandFactory;

/// The answer to a command line without arguments.
const WELCOME: &str = "\
Llama 2 models in GGUF files, on the CPU.

  llama run -p \"Once upon a time\"
                        a story, by the little demo model inside this program
  llama doctor          what this machine can run, and how fast
  llama bench           measure it
  llama run -hf TheBloke/Llama-2-7B-GGUF -p \"Once upon a time\"
                        download Llama 2 7B once (4 GB), and continue a text

llama --help lists all commands, llama help COMMAND the flags of one.
";

pub(crate) fn welcome() -> Result<(), Failure> {
    print(WELCOME)
}

/// Version, commit, what it was built for and what this CPU makes of it.
pub(crate) fn version() -> String {
    let commit = match env!("LLAMA_COMMIT") {
        "" => String::new(),
        commit => format!(" ({commit})"),
    };
    format!(
        "{}{commit}\nbuilt for {}{}\ninstruction sets: {}\nthis CPU has {}\n{} is chosen",
        env!("CARGO_PKG_VERSION"),
        env!("LLAMA_TARGET"),
        if cfg!(debug_assertions) { ", a debug build" } else { "" },
        llama_kernels::isas().iter().map(|isa| isa.name).collect::<Vec<_>>().join(" "),
        llama_kernels::available().join(" "),
        llama_kernels::default_isa(),
    )
}

/// What stands at the end of `--help`.
pub(crate) const AFTER_HELP: &str = "\
Exit codes:
  0    done; also when the reader of standard output has gone
  1    an error, which one line on standard error tells
  2    wrong flags, or no model
  130  ended by Ctrl-C

Environment:
  LLAMA_ARG_*      stand for flags; `llama help run` names them. A flag outweighs them
  HF_TOKEN         the token for models that are gated or private
  HF_ENDPOINT      another hub than https://huggingface.co
  LLAMA_CACHE, HF_HUB_CACHE, HF_HOME
                   where downloads are, the first that is set [default: ~/.cache/huggingface/hub]
  HF_HUB_OFFLINE   ask no server, as --offline
  HF_HUB_DOWNLOAD_TIMEOUT
                   seconds that a server may be silent [default: 30]
  SSL_CERT_FILE    certificates to trust instead of Mozilla's
  HTTPS_PROXY, NO_PROXY
                   how servers are reached
  NO_COLOR         no colours, as on anything that is no terminal";

pub(crate) fn completions(args: &Completions) -> Result<(), Failure> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "llama", &mut out);
    print(String::from_utf8_lossy(&out))
}

/// The page of the command, and after it one for each subcommand.
pub(crate) fn man() -> Result<(), Failure> {
    let failed = Failure::Stdout;
    let mut out = Vec::new();
    // What else the version tells is of this machine, and the header of a page is a line.
    let mut command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut out).map_err(failed)?;
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("llama-{}", subcommand.get_name());
        clap_mangen::Man::new(subcommand.clone().name(name)).render(&mut out).map_err(Failure::Stdout)?;
    }
    print(String::from_utf8_lossy(&out))
}
