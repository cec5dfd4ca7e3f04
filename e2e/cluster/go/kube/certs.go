package main

func runCerts() {}
