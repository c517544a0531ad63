//! Every order of steps, within bounds.
#![allow(clippy::print_stdout, reason = "what a person needs to find out why")]

use simulation::interleavings::{Bounds, explore};
use simulation::operator::Mutant;

fn all_orders(bounds: Bounds) {
    match explore(bounds, None) {
        Ok(explored) => println!("{bounds:?}: {explored:?}"),
        Err((violation, path)) => {
            for (operator, step) in path {
                println!("operator {operator}: {step}");
            }
            panic!("{bounds:?}: {violation}");
        }
    }
}

fn bounds(created: bool, interruptions: u32, crashes: u32) -> Bounds {
    Bounds {
        created,
        interruptions,
        crashes,
    }
}

#[test]
fn two_operators_carry_out_three_ticks_once_however_they_interrupt_each_other() {
    all_orders(bounds(false, 2, 0));
    all_orders(bounds(true, 3, 0));
}

#[test]
fn a_crash_at_any_step_costs_no_tick_and_doubles_none() {
    all_orders(bounds(false, 1, 1));
    all_orders(bounds(true, 1, 1));
}

#[test]
fn two_crashes_at_any_steps_cost_no_tick_and_double_none() {
    all_orders(bounds(true, 0, 2));
}

#[test]
fn it_finds_a_tick_that_is_compared_wrongly() {
    explore(bounds(true, 0, 1), Some(Mutant::RepeatsTick)).expect_err("a violation");
}

/// Minutes: run by hand, in release.
#[test]
#[ignore = "takes longer than all others together"]
fn more_interruptions_beside_a_crash_change_nothing() {
    all_orders(bounds(true, 2, 1));
    all_orders(bounds(false, 2, 1));
}
