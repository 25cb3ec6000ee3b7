"""Searching: by words, by a picture in three ways, by a stored one; details, what is wrong."""

import base64
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from browsing import HOSTILE, Visit
from serving import Served


def search(page: Page, words: str) -> None:
    """Ask as a person does, with the keyboard alone, until hits are there."""
    page.locator("#search-title").click()
    page.keyboard.press("/")
    expect(page.locator("#words")).to_be_focused()
    page.keyboard.type(words)  # what was there is selected
    page.keyboard.press("Enter")
    expect(page.locator(".card .open").first).to_be_visible()


def names(page: Page) -> list[str]:
    """The names of the hits, in their order."""
    return page.locator(".card .name").all_text_contents()


def drop(page: Page, kind: str, picture: Path) -> None:
    """Drop or paste a file, as the browser tells the page of it."""
    page.evaluate(
        """([kind, name, base64]) => {
          const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], name, { type: "image/png" }));
          const more = { bubbles: true, cancelable: true };
          document.body.dispatchEvent(kind === "paste"
            ? new ClipboardEvent("paste", { ...more, clipboardData: data })
            : new DragEvent("drop", { ...more, dataTransfer: data }));
        }""",
        [kind, picture.name, base64.b64encode(picture.read_bytes()).decode("ascii")],
    )


OVERHEAR = """() => {
  const { fetch } = window;
  window.fetch = (path, options) => {
    if (options.body instanceof FormData) {
      window.heard = Object.fromEntries([...options.body].filter(([, value]) => !value.size));
    }
    return fetch(path, options);
  };
}"""


@pytest.mark.usefixtures("worker")
def test_words(visit: Visit, served: Served) -> None:
    """The best hit fits, pictures appear, scores fall, and "back" finds the former words."""
    page = visit(served)
    search(page, "a large green star")
    assert {"green", "star"} <= set(Path(names(page)[0]).stem.split("-"))
    scores = [float(text) for text in page.locator(".card .score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    expect(page.locator(".tile img[data-state=there]").first).to_be_visible()
    expect(page.locator("#said")).to_have_text("24 pictures, the nearest first")
    search(page, "a blue triangle")
    expect(page).to_have_title("a blue triangle · Search · warmclip")
    page.go_back()
    expect(page.locator("#words")).to_have_value("a large green star")
    expect(page.locator(".card .name").first).to_contain_text("green")


@pytest.mark.usefixtures("worker")
def test_terms(visit: Visit, served: Served) -> None:
    """Signs that stand alone add and subtract, with the filters; the next page asks the same."""
    page = visit(served, "#/search?until=2100-03-04")
    with page.expect_request(re.compile("/api/v1/search")) as asked:
        search(page, "a star - 9:green star + 12:30")
    terms = [
        {"text": "a star", "weight": 1},
        {"text": "green star", "weight": -9},
        {"text": "12:30", "weight": 1},
    ]
    only = {"limit": 24, "until": "2100-03-04"}
    assert asked.value.post_data_json == {"terms": terms, "offset": 0, **only}
    with page.expect_request(re.compile("/api/v1/search")) as asked:
        page.mouse.wheel(0, 9_000)
    assert asked.value.post_data_json == {"terms": terms, "offset": 24, **only, "limit": 96}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "words", ["red star", "c++", "well-known", "-", "red -", "toString", "0:a"]
)
def test_words_that_are_no_terms(visit: Visit, served: Served, words: str) -> None:
    """They are one text, as it was typed."""
    page = visit(served)
    with page.expect_request(re.compile("/api/v1/search")) as asked:
        search(page, words)
    assert parse_qs(urlsplit(asked.value.url).query)["q"] == [words]


@pytest.mark.usefixtures("worker")
def test_text_that_is_longer_than_the_model_reads(visit: Visit, served: Served) -> None:
    """It is told that the end of the text did not count."""
    page = visit(served)
    search(page, "star " * 99)
    expect(page.locator(".told")).to_contain_text("did not read its end")


@pytest.mark.usefixtures("worker")
def test_one_scroll(visit: Visit, served: Served) -> None:
    """The next page comes as the end of the last one is near, until all are there."""
    page = visit(served)
    page.set_viewport_size({"width": 390, "height": 300})
    page.goto(f"{page.url}#/search?q=red")
    expect(page.locator(".card")).to_have_count(24)
    page.locator(".card").last.scroll_into_view_if_needed()
    expect(page.locator(".card")).to_have_count(61)
    expect(page.locator(".more")).to_have_count(0)
    assert len(set(names(page))) == 61


TOLD_TWICE = """
const Plain = IntersectionObserver;
window.IntersectionObserver = class extends Plain {
  constructor(call, options) {
    super((entries) => call([
      ...entries.map(({ target, isIntersecting }) => ({ target, isIntersecting: !isIntersecting })),
      ...entries,
    ]), options);
  }
};
"""  # as a browser that was busy tells it: what was, and then what is


@pytest.mark.usefixtures("worker")
def test_scroll_while_the_browser_is_busy(visit: Visit, served: Served) -> None:
    """Whether the end is near now decides, not whether it was."""
    page = visit(served)
    page.set_viewport_size({"width": 390, "height": 300})
    page.add_init_script(TOLD_TWICE)
    page.goto(f"{page.url}#/search?q=red")
    page.reload()
    expect(page.locator(".card")).to_have_count(24)
    page.wait_for_timeout(200)  # the browser tells of what it shows once a frame
    assert page.locator(".card").count() == 24
    page.locator(".card").last.scroll_into_view_if_needed()
    expect(page.locator(".card")).to_have_count(61)


@pytest.mark.usefixtures("worker")
def test_page_that_does_not_come(visit: Visit, served: Served) -> None:
    """The reason stands below the last picture, and a button, which moves the focus on."""
    page = visit(served)
    page.set_viewport_size({"width": 390, "height": 300})
    page.route("**/search?*offset=24*", lambda route: route.abort())
    page.goto(f"{page.url}#/search?q=red")
    page.locator(".card").nth(23).scroll_into_view_if_needed()
    expect(page.locator(".more").get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/search?*offset=24*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".card .open").nth(24)).to_be_focused()


@pytest.mark.usefixtures("worker")
def test_tiles_in_view_come_first(visit: Visit, served: Served) -> None:
    """What was scrolled past before its turn came is not asked for, and what is seen now is."""
    page = visit(served)
    page.set_viewport_size({"width": 390, "height": 300})
    asked: list[str] = []
    held: list[Route] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route(
        "**/thumbnail?*",
        lambda route: held.append(route) if len(held) < 4 else route.continue_(),
    )
    page.goto(f"{page.url}#/search?q=red")
    expect(page.locator(".card")).to_have_count(24)
    wanted = page.locator(".tile img").evaluate_all("(all) => all.map((it) => it.dataset.from)")
    page.wait_for_function("document.querySelectorAll('.tile img').length === 24")
    while len(held) < 4:
        page.wait_for_timeout(50)
    page.locator(".card").nth(23).scroll_into_view_if_needed()
    page.wait_for_timeout(200)  # the browser tells of what it shows once a frame
    for route in held:
        route.continue_()
    expect(page.locator(".tile img").nth(23)).to_have_attribute("data-state", "there")
    drawn = [wanted.index(path) for url in asked for path in wanted if url.endswith(path)]
    assert not {8, 9, 10, 11} & set(drawn)
    assert 23 in drawn[4:9]


@pytest.mark.usefixtures("worker")
def test_large(visit: Visit, served: Served, pictures: Path) -> None:
    """A hit opens with the keyboard, tells what is stored of it, and gives the focus back."""
    page = visit(served, "#/search?q=star")
    opener = page.locator(".card .open").first
    opener.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card .open").nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("img[data-state=there]")).to_be_visible()
    expect(dialog).to_contain_text(str(pictures))
    expect(dialog).to_contain_text("256 \N{MULTIPLICATION SIGN} 256 pixels")
    first, second = names(page)[:2]
    expect(dialog.get_by_role("heading")).to_have_text(first)
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text(second)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()


@pytest.mark.usefixtures("worker")
def test_large_goes_on_over_pages(visit: Visit, served: Served) -> None:
    """After the last picture of a page comes the first of the next, up to the last of all."""
    page = visit(served)
    page.set_viewport_size({"width": 390, "height": 300})
    page.goto(f"{page.url}#/search?q=red")
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog")
    for _ in range(60):
        before = dialog.get_by_role("heading").text_content()
        page.keyboard.press("ArrowRight")
        expect(dialog.get_by_role("heading")).not_to_have_text(str(before))
    expect(page.locator(".card")).to_have_count(61)
    expect(dialog.get_by_role("heading")).to_have_text(names(page)[-1])
    expect(dialog.get_by_role("button", name="Next picture")).to_be_disabled()


@pytest.mark.usefixtures("worker")
def test_original(visit: Visit, served: Served, pictures: Path) -> None:
    """A picture is zoomed into its own file, which is saved byte by byte, and its path copied."""
    page = visit(served, "#/search?q=star")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("img[data-state=there]")).to_be_visible()
    path = str(dialog.locator(".path").text_content())
    assert path.startswith(f"{pictures}/")
    with page.expect_response(re.compile("/original")):
        dialog.get_by_role("button", name="Original size").click()
    expect(dialog.locator(".stage.zoomed")).to_be_visible()
    expect(dialog.get_by_role("button", name="Original size")).to_have_attribute(
        "aria-pressed", "true"
    )
    with page.expect_download() as saved:
        dialog.get_by_role("button", name="Original", exact=True).click()
    assert saved.value.suggested_filename == Path(path).name
    assert saved.value.path().read_bytes() == Path(path).read_bytes()
    dialog.get_by_role("button", name="Copy path").click()
    expect(dialog.locator(".told")).to_have_text("The path was copied.")
    assert page.evaluate("navigator.clipboard.readText()") == path


@pytest.mark.usefixtures("worker")
def test_original_that_is_gone(visit: Visit, served: Served, pictures: Path) -> None:
    """The server's reason is told; the drawing stays."""
    page = visit(served, "#/search?q=star")
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("img[data-state=there]")).to_be_visible()
    picture = Path(str(dialog.locator(".path").text_content()))
    assert pictures in picture.parents
    aside = picture.rename(picture.with_suffix(".aside"))
    try:
        dialog.get_by_role("button", name="Original", exact=True).click()
        expect(dialog.locator(".told")).to_contain_text("this server reads it itself")
    finally:
        aside.rename(picture)


@pytest.mark.usefixtures("worker")
def test_original_that_failed(visit: Visit, served: Served) -> None:
    """Whoever zooms again asks for it again, and sees it."""
    page = visit(served, "#/search?q=star")
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.abort() if len(asked) == 1 else route.continue_()

    page.route("**/original?*", answer)
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("img[data-state=there]")).to_be_visible()
    zoom = dialog.get_by_role("button", name="Original size")
    zoom.click()
    expect(dialog.locator(".told")).not_to_be_empty()
    zoom.click()
    with page.expect_response(re.compile("/original")) as answered:
        zoom.click()
    assert answered.value.status == 200
    assert len(asked) == 2


@pytest.mark.usefixtures("worker")
def test_names_are_cut_in_the_middle(visit: Visit, served: Served) -> None:
    """What differs in the names of one camera stands at their ends, which stay in sight."""
    page = visit(served, "#/search?q=star")
    page.set_viewport_size({"width": 390, "height": 844})
    name = page.locator(".card .name").first
    expect(name).to_be_visible()
    text = str(name.text_content())
    end = name.locator("span").last
    assert text.endswith(str(end.text_content()))
    assert 0 < len(str(end.text_content())) < len(text)
    box, inner = name.bounding_box(), end.bounding_box()
    assert box is not None
    assert inner is not None
    assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1


@pytest.mark.usefixtures("worker")
def test_roots_are_offered(visit: Visit, served: Served, pictures: Path) -> None:
    """Wherever a folder is typed, those that pictures may lie in are choices."""
    page = visit(served)
    expect(page.locator(f"#folders option[value='{pictures}']").first).to_be_attached()
    page.get_by_role("link", name="Sessions").click()
    expect(page.locator(f"#training-folders option[value='{pictures}']")).to_be_attached()
    expect(page.get_by_role("heading", name="Index a folder")).to_be_visible()


@pytest.mark.usefixtures("worker")
def test_similar(visit: Visit, served: Served) -> None:
    """What is similar to a hit is found without it, from the card and from the dialog."""
    page = visit(served, "#/search?q=red+star")
    first = page.locator(".card").first
    name = first.locator(".name").text_content()
    first.get_by_role("button", name="Similar to").click()
    expect(page.locator(".reference")).to_contain_text(f"Similar to {name}")
    expect(page.locator(".card .open").first).to_be_visible()
    assert name not in names(page)
    page.locator(".card .open").first.click()
    second = page.get_by_role("dialog").get_by_role("heading").text_content()
    page.get_by_role("dialog").get_by_role("button", name="Similar to this").click()
    expect(page.locator(".reference")).to_contain_text(f"Similar to {second}")
    page.get_by_role("button", name="No longer by this picture").click()
    expect(page.locator("#words")).to_be_focused()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_picture(visit: Visit, served: Served, pictures: Path, way: str) -> None:
    """A picture that is chosen, dropped or pasted finds itself first."""
    picture = next((pictures / "below").glob("*.png"))
    page = visit(served)
    if way == "choose":
        page.locator("#chooser").set_input_files(picture)
    else:
        drop(page, way, picture)
    expect(page.locator(".reference")).to_contain_text(f"Looks like {picture.name}")
    expect(page.locator(".card .name").first).to_have_text(picture.name)
    expect(page.locator(".card .score").first).to_have_text("1.000")


@pytest.mark.usefixtures("worker")
def test_filters_are_sent(visit: Visit, served: Served, pictures: Path) -> None:
    """Folder, dates and collection reach the server with words, and with a picture."""
    page = visit(served, "#/search?q=red")
    page.get_by_text("Filters").click()
    page.get_by_label("Folder, and all below it").fill(str(pictures / "below"))
    page.get_by_label("Taken since").fill("2026-01-02")
    page.get_by_label("Taken until").fill("2100-03-04")
    with page.expect_request(re.compile("/api/v1/search")) as asked:
        page.get_by_role("button", name="Apply").click()
    wanted = {"folder": str(pictures / "below"), "since": "2026-01-02", "until": "2100-03-04"}
    sent = parse_qs(urlsplit(asked.value.url).query)
    assert {name: sent[name] for name in wanted} == {name: [it] for name, it in wanted.items()}
    expect(page.locator(".chosen")).to_have_text("3 set")
    page.evaluate(OVERHEAR)  # Chromium shows nobody the body of a form with a file
    with page.expect_request(re.compile("/search/image")):
        drop(page, "drop", next(pictures.glob("*.png")))
    assert wanted.items() <= page.evaluate("window.heard").items()


@pytest.mark.usefixtures("worker")
def test_filters_narrow(visit: Visit, served: Served, pictures: Path) -> None:
    """Only pictures below the folder are found, and none of a time before there were any."""
    below = {path.name for path in (pictures / "below").iterdir()}
    page = visit(served, f"#/search?q=red&folder={pictures / 'below'}")
    expect(page.locator(".card .open").first).to_be_visible()
    assert set(names(page)) <= below
    page.goto(f"{page.url}&until=2000-01-01")
    expect(page.locator(".state")).to_contain_text("The filters leave no picture")


@pytest.mark.usefixtures("worker")
def test_hostile_name(visit: Visit, served: Served) -> None:
    """A file's name is shown letter by letter: no element is made of it, and nothing runs."""
    page = visit(served, "#/search?q=red")
    page.locator(".card").nth(23).scroll_into_view_if_needed()
    expect(page.locator(".card")).to_have_count(61)
    hostile = page.locator(".name", has_text=HOSTILE)
    expect(hostile).to_be_visible()
    hostile.click()
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(f"{HOSTILE}.png")
    page.get_by_role("button", name="Similar to this").click()
    expect(page.locator(".reference strong")).to_have_text(f"{HOSTILE}.png")
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.owned") is None


@pytest.mark.usefixtures("worker")
def test_picture_that_is_none(visit: Visit, served: Served) -> None:
    """The server's own reason is told, and words are searched for as before."""
    page = visit(served)
    page.locator("#chooser").set_input_files(
        {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.get_by_role("alert")).to_contain_text("is no picture")
    search(page, "red")


@pytest.mark.usefixtures("worker")
def test_nothing_indexed(visit: Visit, served: Served) -> None:
    """A collection that is not there leads to where one is made."""
    page = visit(served, "#/search?q=red&collection=other")
    expect(page.locator(".state")).to_contain_text("No collection “other”")
    expect(page.locator(".state")).to_contain_text("There is no collection 'other' yet")
    page.get_by_role("link", name="Index a folder").click()
    expect(page.get_by_role("heading", name="Index a folder")).to_be_focused()


@pytest.mark.usefixtures("worker")
def test_misspelt_collection(visit: Visit, served: Served) -> None:
    """The page names the one that is meant, and does not say that nothing is indexed."""
    page = visit(served, "#/search?q=red&collection=imagse")
    expect(page.locator(".state")).to_contain_text("No collection “imagse”")
    expect(page.locator(".state")).to_contain_text("id you mean 'images'?")
    expect(page.locator(".state")).not_to_contain_text("Nothing is indexed")


def test_no_worker(visit: Visit, lonely: Served) -> None:
    """The page says what is missing, and tries again when it is told to."""
    page = visit(lonely, "#/search?q=red")
    expect(page.get_by_role("alert")).to_contain_text("run warmclip worker")
    with page.expect_request(re.compile("/api/v1/search")):
        page.get_by_role("button", name="Try again").click()


@pytest.mark.usefixtures("worker")
def test_file_that_is_gone(visit: Visit, served: Served, pictures: Path) -> None:
    """Its hit stays, with "No picture" in place of it, and the reason in the dialog."""
    picture = next((pictures / "below").glob("*.png"))
    aside = picture.rename(picture.with_suffix(".aside"))
    try:
        page = visit(served)
        page.locator("#chooser").set_input_files(aside)
        expect(page.locator(".tile img[data-state=missing]").first).to_be_attached()
        page.locator(".card .open").first.click()
        expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text(picture.name)
    finally:
        aside.rename(picture)
