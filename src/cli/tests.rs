use std::process::Command as Process;

use super::*;

fn run(arguments: &[&str]) -> RunArgs {
    let arguments = ["token-bucket-operator", "run"].iter().chain(arguments);
    match Cli::try_parse_from(arguments).unwrap().command {
        Command::Run(args) => args.normalized(),
        command => panic!("{command:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_readme_lists_every_flag_of_run_with_its_variable_and_default() {
    let readme = include_str!("../../README.md");
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for flag in run.get_arguments().filter(|flag| flag.get_id() != "help") {
        let name = flag.get_long().unwrap();
        let start = format!("| `--{name}` |");
        let row = readme.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("README.md has no row for --{name}"));
        let variable = flag.get_env().map(|it| it.to_str().unwrap());
        let default = flag.get_default_values().first();
        for said in [variable, default.map(|it| it.to_str().unwrap())] {
            let said = said.map_or(String::new(), |said| format!("| `{said}` |"));
            assert!(row.contains(&said), "--{name}: no {said} in {row}");
        }
    }
}

#[test]
fn durations_have_a_unit() {
    assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    for text in [
        "",
        "10",
        "s",
        "0s",
        "-1s",
        "1d",
        "25h",
        "99999999999999999999s",
        "1 s",
        "1.5s",
    ] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn namespaces_are_repeated_or_separated() {
    assert_eq!(
        run(&["--namespace", "a", "--namespace", "b, c"]).namespaces,
        ["a", "b", "c"]
    );
}

#[test]
fn allowed_hosts_are_repeated_or_separated() {
    let args = run(&[
        "--allowed-broker-hosts",
        "a, *.b:1",
        "--allowed-broker-hosts=[::1]",
    ]);
    let hosts = args.allowed_broker_hosts.iter().map(ToString::to_string);
    assert_eq!(hosts.collect::<Vec<_>>(), ["a", "*.b:1", "[::1]"]);
    let bad = [
        "token-bucket-operator",
        "run",
        "--allowed-broker-hosts=amqp://a",
    ];
    let said = Cli::try_parse_from(bad).unwrap_err().to_string();
    assert!(said.contains("write a host name"), "{said}");
}

#[test]
fn refill_queues_have_a_pattern_unless_another_one_is_given() {
    let shown = |args: RunArgs| {
        let shown: Vec<_> = args.refill_queues.iter().map(ToString::to_string).collect();
        shown.join(" ")
    };
    assert_eq!(shown(run(&[])), "token_buckets.*");
    assert_eq!(shown(run(&["--refill-queues=a.*,b"])), "a.* b");
}

#[test]
fn an_empty_setting_is_an_absent_one() {
    let args = run(&["--namespace", "", "--amqp-url", "", "--selector", " "]);
    assert_eq!(
        (args.namespaces.len(), args.amqp_url, args.selector),
        (0, None, None)
    );
}

/// Variables belong to a process, so the test runs itself in one that has them.
#[test]
fn an_empty_variable_means_what_an_absent_one_means_for_every_flag() {
    const EMPTY: &str = "TEST_WITH_EMPTY_VARIABLES";
    let parsed = |command: clap::Command| {
        let matches = command.try_get_matches_from(["token-bucket-operator", "run"]);
        format!("{:?}", Cli::from_arg_matches(&matches.unwrap()).unwrap())
    };
    if let Ok(empty) = std::env::var(EMPTY) {
        let without_any =
            |command: clap::Command| command.mut_args(|flag| flag.env(Resettable::Reset));
        let absent = Cli::command().mut_subcommands(without_any);
        assert_eq!(std::env::var("AMQP_URL").unwrap(), empty);
        assert_eq!(
            parsed(without_empty_variables(Cli::command())),
            parsed(absent)
        );
        return;
    }
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let variables: Vec<_> = run.get_arguments().filter_map(|it| it.get_env()).collect();
    assert!(variables.len() > 20, "{variables:?}");
    for empty in ["", " "] {
        let name = "an_empty_variable_means_what_an_absent_one_means_for_every_flag";
        let output = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("cli::tests::{name}")])
            .env(EMPTY, empty)
            .envs(variables.iter().map(|name| (name, empty)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}

#[test]
fn leader_election_is_on_until_it_is_switched_off() {
    assert!(run(&[]).leader_elect);
    assert!(run(&["--leader-elect"]).leader_elect);
    assert!(!run(&["--leader-elect=false"]).leader_elect);
}

#[test]
fn the_help_never_shows_the_password_from_the_environment() {
    let help = Cli::command()
        .find_subcommand_mut("run")
        .unwrap()
        .render_long_help()
        .to_string();
    assert!(help.contains("[env: AMQP_URL]"), "{help}");
}
